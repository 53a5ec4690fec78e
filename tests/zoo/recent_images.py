"""Image models of 2025 and 2026, and a few older ones that are called differently."""

from __future__ import annotations

from . import image_recent as bare
from .images import _bare
from .specimen import Specimen

_REFERENCE = {"finer": {"reference": "image"}}

RECENT_IMAGES: tuple[Specimen, ...] = (
    _bare(
        "flux3",
        "FLUX.3",
        bare.flux3,
        bare.run_flux3,
        needs=("Flux3Transformer2DModel",),
        segments=("text", "image", "reference"),
        names={"image_cond_hidden_states": "reference"},
    ),
    _bare(
        "qwen-image-21",
        "Qwen-Image 2.1",
        bare.qwen_image21,
        bare.run_qwen_image21,
        needs=("QwenImage21Transformer2DModel",),
        segments=("text", "image", "reference"),
        **_REFERENCE,
    ),
    _bare(
        "krea2",
        "Krea 2",
        bare.krea2,
        bare.run_krea2,
        needs=("Krea2Transformer2DModel",),
        segments=("text", "image", "text_layer"),
        finer={"text_layer": "text"},
    ),
    _bare(
        "glm-image", "GLM-Image", bare.glm_image, bare.run_glm_image, needs=("GlmImageTransformer2DModel",)
    ),
    _bare(
        "ideogram4",
        "Ideogram 4",
        bare.ideogram4,
        bare.run_ideogram4,
        needs=("Ideogram4Transformer2DModel",),
        segments=("padding", "text", "image"),
    ),
    _bare("fibo", "Bria Fibo", bare.fibo, bare.run_fibo, needs=("BriaFiboTransformer2DModel",)),
    _bare(
        "fibo2",
        "Bria Fibo 2",
        bare.fibo2,
        bare.run_fibo2,
        needs=("BriaFibo2Transformer2DModel",),
        segments=("image", "reference", "gist", "text"),
        names={"context_latents": "reference", "register": "gist"},
    ),
    _bare(
        "nucleus",
        "Nucleus-Image",
        bare.nucleus,
        bare.run_nucleus,
        needs=("NucleusMoEImageTransformer2DModel",),
    ),
    _bare(
        "omnigen",
        "OmniGen",
        bare.omnigen,
        bare.run_omnigen,
        segments=("padding", "text", "reference", "timestep", "image"),
        names={"input_img_latents": "reference"},
        learned=("padding", "text", "timestep"),
    ),
    _bare(
        "joyimage",
        "JoyImage-Edit",
        bare.joyimage,
        bare.run_joyimage,
        needs=("JoyImageEditTransformer3DModel",),
        segments=("image", "reference", "text"),
        **_REFERENCE,
    ),
    _bare(
        "joyimage-plus",
        "JoyImage-Edit-Plus",
        bare.joyimage_plus,
        bare.run_joyimage_plus,
        needs=("JoyImageEditPlusTransformer3DModel",),
        segments=("image", "reference", "padding", "text"),
        grid=False,
        finer={"reference": "image", "padding": "image"},
    ),
    _bare("kandinsky3", "Kandinsky 3", bare.kandinsky3, bare.run_kandinsky3, finer={"pooled": "text"}),
    _bare(
        "prior",
        "Kandinsky 2 and unCLIP (prior)",
        bare.prior,
        bare.run_prior,
        segments=("text", "pooled", "timestep", "image_embed", "register"),
        learned=("pooled", "timestep", "image_embed", "register"),
    ),
    _bare("unet2d", "DDPM (unconditional)", bare.unet2d, bare.run_unet2d, segments=("image",)),
    _bare(
        "cascade-decoder",
        "Stable Cascade (decoder)",
        bare.cascade_decoder,
        bare.run_cascade_decoder,
        segments=("image", "pooled"),
        names={"clip_text_pooled": "pooled"},
        mixed=True,
    ),
    _bare("dreamlite", "DreamLite", bare.dreamlite, bare.run_dreamlite, needs=("DreamLiteUNetModel",)),
)
