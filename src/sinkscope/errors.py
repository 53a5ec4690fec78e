"""The errors a user can meet.

Every message says what was got, what was expected and what to do. The command line prints the message alone
and exits with `exit_code` (2 for usage, 1 for failures). This module imports the standard library only; every
room may use it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SinkscopeError(Exception):
    """Base class of everything sinkscope raises on purpose."""

    exit_code = 1


class UsageError(SinkscopeError, ValueError):
    """The caller asked for something that does not exist or cannot be combined."""

    exit_code = 2


class NoMatchError(UsageError):
    """An edit or an observation matched no attention call, so nothing was edited or seen."""


class NonFiniteError(SinkscopeError):
    """NaN or infinity where numbers are needed (queries, keys, values, scores)."""


class StoreError(SinkscopeError):
    """A run folder or a file in it cannot be read, written or belongs to something else."""


class MissingDependencyError(SinkscopeError):
    """An optional package is not installed; the message holds the install command."""


class MissingWeightsError(SinkscopeError):
    """A checkpoint is not on this machine; the message names the files and how to get them."""


class SessionError(SinkscopeError, RuntimeError):
    """A `with` block is opened or used where it cannot listen: twice, inside compiled code, after its end."""


class UnsupportedAttentionError(SinkscopeError):
    """An attention module whose softmax cannot be seen; the message names module, reason and remedy."""


class LinearAttentionError(UnsupportedAttentionError):
    """The module never forms softmax weights."""


class EagerAttentionError(UnsupportedAttentionError):
    """The module computes its softmax outside `F.scaled_dot_product_attention`."""


class FusedBackendError(UnsupportedAttentionError):
    """The module calls a kernel that bypasses `F.scaled_dot_product_attention`."""


class DistributedAttentionError(UnsupportedAttentionError):
    """Keys are sharded over devices, so any mass measured here would be partial."""


class ScriptModuleError(UnsupportedAttentionError):
    """TorchScript modules hide their attention calls."""


class CacheActiveError(UnsupportedAttentionError):
    """A cache skips attention calls on some steps."""


def unknown(kind: str, got: object, known: Iterable[object]) -> UsageError:
    """Build the error for a name that does not exist.

    Args:
        kind: What was being named, for example "metric".
        got: The name as given.
        known: All names that would have been accepted.
    """
    names = [str(name) for name in known]
    close = difflib.get_close_matches(str(got), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UsageError(f"Unknown {kind} {got!r}. Expected one of: {', '.join(names) or '(none)'}.{hint}")
