#!/usr/bin/env bash
# A scratch environment with the packages that the metrics are compared with. Never the project's own: these
# pins break it (an old torchvision, transformers 4). It borrows torch and numpy from the project's.
#   benchmarks/verify/make_env.sh /tmp/sinkscope-verify
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${1:?folder for the environment}
.venv/bin/python -m venv "$target"
site=$("$target/bin/python" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")
.venv/bin/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])" >"$site/zz_project.pth"
# torchvision 0.16 is the newest that imports beside a CPU build of torch without its C++ operators.
"$target/bin/pip" install --quiet --no-deps \
  torchvision==0.16.2 lpips==0.1.4 open_clip_torch==3.3.0 timm==1.0.22 clip-anytorch==2.6.0 hpsv2x==1.2.0 \
  image-reward==1.5 fairscale==0.4.13 ftfy wcwidth \
  transformers==4.55.4 "tokenizers>=0.21,<0.22" "huggingface_hub<1.0"
