"""Where a student's weights begin: an uploaded file, or its teacher. Only safetensors is read, never a pickle.

Both load in place into a student with fresh weights, and say what was left fresh.
"""

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from timm.models import EfficientNet
from torch import Tensor, nn

from understudy.errors import RecipeRefused

#: How a file of Python objects begins: torch.save's zip archive, and a bare pickle.
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
#: What frameworks put before every name: DataParallel, Lightning and others, torch.compile, whole checkpoints.
WRAPPERS = ("module.", "model.", "_orig_mod.", "state_dict.", "ema.", "student.")
#: Counts batches only where momentum is None, which is nowhere here; files from TensorFlow lack it.
COUNTER = "num_batches_tracked"


def read(weights: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Raises RecipeRefused."""
    if weights.startswith(PICKLES):
        raise RecipeRefused(
            "the weights are a pickle (.pth, .pt, .bin), which runs code when it is opened and is never read here; "
            "save them with safetensors.torch.save_file(model.state_dict(), …)"
        )
    try:
        tensors: dict[str, Tensor] = load(weights)
    except SafetensorError as error:
        raise RecipeRefused(
            f"the weights are not a safetensors file, or only a part of one ({len(weights):,} bytes): {error}"
        ) from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise RecipeRefused(f"the weights are damaged: {name} has numbers that are not finite")
    return tensors


def start_from(model: nn.Module, weights: bytes) -> list[str]:
    """Load weights in place; gives the names that were left fresh: a classifier of another shape.

    Raises RecipeRefused if the file is not safetensors, or if anything but the classifier does not fit.
    """
    tensors = read(weights)
    wanted = model.state_dict()
    fresh = [name for name in _classifier_names(model) if name in wanted and not _fits(tensors.get(name), wanted[name])]
    kept = {name: tensor for name, tensor in tensors.items() if name not in fresh}
    rest = {name for name in wanted if name not in fresh}
    missing = {name for name in rest - kept.keys() if not name.endswith(COUNTER)}
    wrong = sorted(missing | (kept.keys() - rest) | {n for n in rest & kept.keys() if not _fits(kept[n], wanted[n])})
    if wrong:
        raise RecipeRefused(_wrapped(tensors, wanted) or _foreign(wrong, tensors, wanted))
    model.load_state_dict(kept, strict=False)
    return fresh


def _wrapped(tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> str | None:
    """A sentence on names that would be right without what stands before them. None: that is not it."""
    for prefix in WRAPPERS:
        inner = {name.removeprefix(prefix) for name in tensors if name.startswith(prefix)}
        if len(inner & wanted.keys()) > len(wanted) / 2:
            return (
                f"the names of the weights begin with {prefix!r}, as a wrapper saves them; save the model's own: "
                f"{{name.removeprefix({prefix!r}): tensor for name, tensor in weights.items() if "
                f"name.startswith({prefix!r})}}"
            )
    return None


def _foreign(wrong: list[str], tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    def shape(name: str, of: dict[str, Tensor]) -> str:
        return str(tuple(of[name].shape)) if name in of else "nothing"

    shown = "; ".join(
        f"{name} is {shape(name, tensors)} in the file and {shape(name, wanted)} here" for name in wrong[:3]
    )
    return (
        f"the weights are of another architecture: {len(wrong)} tensors are missing, too many or of another shape, "
        f"beginning with {', '.join(wrong[:5])} ({shown})"
    )


def _fits(tensor: Tensor | None, wanted: Tensor) -> bool:
    return tensor is not None and tensor.shape == wanted.shape


def _classifier_names(model: nn.Module) -> list[str]:
    classifier = model.get_classifier()  # type: ignore[operator]  # every model of timm has it
    prefixes = [name for name, module in model.named_modules() if module is classifier]
    return [f"{prefix}.{name}" for prefix in prefixes for name in classifier.state_dict()]


# -- grown from the teacher -----------------------------------------------------------------------


@torch.no_grad()
def grow(
    model: nn.Module, weights: bytes, *, classes: tuple[str, ...], teacher_classes: tuple[str, ...], teacher: str
) -> list[str]:
    """Load the teacher's weights so that the student begins where it is; gives the classes that were left fresh.

    An equal architecture answers exactly as the teacher. A wider or deeper EfficientNet does too, but for rounding,
    in the manner of Net2Net (Chen et al. 2016), simpler: the teacher's channels come first, and nothing flows into
    them from new ones, which begin fresh beside them; a new block begins as the identity, its last BatchNorm at
    zero. What is new learns from the first step on. Classes that the teacher lacks have fresh rows. Raises
    RecipeRefused if the teacher is of another family, larger, or has other stages.
    """
    tensors, wanted = read(weights), model.state_dict()
    rows = _classifier_names(model)
    _refuse_other_family(model, tensors, wanted, rows, teacher)
    where = torch.tensor([classes.index(name) for name in teacher_classes])
    for name, tensor in tensors.items():
        if name in rows:
            _place_rows(wanted[name], tensor, where)
        else:
            _place(wanted[name], tensor)
    _begin_new_blocks_as_identity(model, tensors)
    return [name for name in classes if name not in teacher_classes]


def _place(into: Tensor, tensor: Tensor) -> None:
    """The teacher's tensor into the leading part; its outputs hear nothing of new inputs."""
    if tensor.ndim == 0:
        into.copy_(tensor)
        return
    num_outputs = len(tensor)
    if tensor.ndim > 1:
        into[:num_outputs, tensor.shape[1] :] = 0
        into[:num_outputs, : tensor.shape[1]] = tensor
    else:
        into[:num_outputs] = tensor


def _place_rows(into: Tensor, tensor: Tensor, where: Tensor) -> None:
    """The teacher's rows of a classifier at the places that their classes have now."""
    moved = torch.empty(len(where), *into.shape[1:])
    _place(moved, tensor)
    into[where] = moved


def _begin_new_blocks_as_identity(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """A block with a way around it adds nothing while the scale of its last BatchNorm is zero."""
    for name, block in model.named_modules():
        if getattr(block, "has_skip", False) and not any(known.startswith(f"{name}.") for known in tensors):
            last = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)][-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)


def _refuse_other_family(
    model: nn.Module, tensors: dict[str, Tensor], wanted: dict[str, Tensor], rows: list[str], teacher: str
) -> None:
    can_grow = isinstance(model, EfficientNet)
    wrong = [n for n, t in tensors.items() if n not in wanted or not _covers(wanted[n], t, can_grow or n in rows)]
    new = wanted.keys() - tensors.keys()
    if can_grow:  # a stage of one's own changes the resolution of all that follows
        stages = {_stage(name) for name in tensors}
        new = {name for name in new if _stage(name) not in stages}
    wrong += sorted(new)
    if wrong:
        raise RecipeRefused(
            f"start=teacher: the student cannot grow from its teacher {teacher}, which is of another family or larger "
            f"({len(wrong)} tensors do not fit, beginning with {', '.join(wrong[:3])}); EfficientNets grow in width and "
            f"depth, any other architecture must stay the same; choose such a student, or set start to scratch"
        )


def _covers(wanted: Tensor, tensor: Tensor, can_grow: bool) -> bool:
    """Whether a tensor fits into the student's: more outputs and inputs are well, another kernel is not."""
    if not can_grow or wanted.ndim != tensor.ndim:
        return wanted.shape == tensor.shape
    grows = all(into >= size for into, size in zip(wanted.shape[:2], tensor.shape[:2], strict=True))
    return grows and wanted.shape[2:] == tensor.shape[2:]


def _stage(name: str) -> str:
    """``blocks.3`` of ``blocks.3.1.bn1.weight``, ``conv_head`` of ``conv_head.weight``."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "blocks" else parts[0]
