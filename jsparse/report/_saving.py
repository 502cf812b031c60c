"""What a page needs to know about a model, stored with the log of its training."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from flax import nnx

from jsparse._slots import check_module, sparse_parts
from jsparse._storage.files import write_together
from jsparse._timing import latencies
from jsparse._untraced import explain_abstract_model
from jsparse._values import check_folder, check_mapping
from jsparse._versions import versions
from jsparse.report._efficiency import costs
from jsparse.report._summary import summary

FORMAT, VERSION = "jsparse.report", 1
NO_FORMS: Mapping[str, nnx.Module] = MappingProxyType({})


@explain_abstract_model
def save(
    model: nnx.Module,
    folder: str | Path,
    *inputs: Any,
    forms: Mapping[str, nnx.Module] = NO_FORMS,
    **options: Any,
) -> None:
    """Write what `page` shows of a model: model.json and masks.npz.

    A page is made of a folder with

    - settings.json: any JSON object;
    - log.jsonl: one JSON object per line, with "step" and numbers such as "accuracy", "density" and
      "loss", each a number or a list with one for each seed ("runs" may name what each is, seeds of
      one name are drawn as one); "layers" is a mapping from a layer's path to its density;
    - model.json and masks.npz, written here;
    - tables.json, where there are tables to show: a list of objects with "title", "columns" and
      "rows", all cells texts;
    - any PNG files, which are shown under their names.

    The page names what is missing, except tables and pictures.

    Args:
      model: any NNX module, at the end of training.
      folder: of the run; made where it does not exist.
      *inputs: arguments of a call `model(*inputs)`, to count operations with; without them that is
        left out.
      forms: plain models to time on the inputs, by name: for instance the folded one and, from
        `jsparse.shrink`, a smaller one. Times are compared with those of the first.
      **options: further arguments of the call.

    Raises:
      ValueError: forms without inputs.

    Example:
      >>> import tempfile
      >>> from flax import nnx
      >>> from jsparse import Top
      >>> from jsparse._surgery import sparsify
      >>> model = sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", Top(density=0.5)))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(model, folder)
      ...     sorted(path.name for path in Path(folder).iterdir())
      ['masks.npz', 'model.json']
    """
    check_module(model)
    check_folder(folder=folder)
    check_mapping("plain models by name", forms=forms)
    for form in forms.values():
        check_module(form, "forms")
    if forms and not inputs:
        raise ValueError("forms are timed on example inputs; give them: save(model, folder, x)")
    parts = sparse_parts(model)
    masks = {path: np.asarray(part.read_final_mask()) > 0 for path, part in parts.items()}
    about: dict[str, Any] = {"format": FORMAT, "version": VERSION, **summary(model).to_dict()}
    for path, part in parts.items():
        role, ndim = part.rule.role, masks[path].ndim
        about["layers"][path]["axes"] = {
            "stack": role.stack,
            "inputs": role.input_axes(ndim),
            "outputs": role.output_axes(ndim),
        }
    about["versions"] = versions()
    if inputs:
        about["inputs"] = [
            {"shape": leaf.shape, "dtype": str(leaf.dtype)} for leaf in jax.tree.leaves(inputs)
        ]
        about["costs"] = costs(model, *inputs, **options).to_dict()
        about["forms"] = _forms(forms, inputs, options)
    content = io.BytesIO()
    bits = {f"masks/{path}": np.packbits(mask) for path, mask in masks.items()}
    np.savez_compressed(content, **bits)  # type: ignore[arg-type]
    files = {"masks.npz": content.getvalue()}
    files["model.json"] = (json.dumps(about, indent=1) + "\n").encode()
    write_together({Path(folder) / name: file for name, file in files.items()})


def _forms(forms: Mapping[str, nnx.Module], inputs: tuple, options: dict) -> list[dict[str, Any]]:
    """Size, operations and time of each plain model."""
    times = latencies(forms, *inputs, **options) if forms else {}
    arrays = lambda form, kinds: jax.tree.leaves(nnx.state(form, kinds))
    return [
        {
            "name": name,
            "parameters": sum(array.size for array in arrays(form, nnx.Param)),
            # statistics and the places of packed weights are stored too
            "bytes": sum(array.nbytes for array in arrays(form, nnx.Not(nnx.RngState))),
            "flops": costs(form, *inputs, **options).dense_flops,
            "seconds": times[name],
        }
        for name, form in forms.items()
    ]
