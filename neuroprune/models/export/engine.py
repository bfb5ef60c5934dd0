"""ONNX files made faster for onnxruntime: operators fused, weights in 8 bits."""

from __future__ import annotations

import logging
from pathlib import Path

INT8_FILE = "model.int8.onnx"


def fuse(file: Path, out: Path) -> int:
    """Write a copy of a file in which onnxruntime's fused operators replace their parts: attention, residual norms.

    Args:
        file: The ONNX file, as torch wrote it.
        out: The file to write. Weights are stored beside it if they are beside `file`.

    Returns:
        The number of groups of operators that were replaced.
    """
    import onnx_ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    model = onnx_ir.load(str(file))
    fused, counts = optimize_for_ort(model)
    beside = any(isinstance(value.const_value, onnx_ir.ExternalTensor) for value in model.graph.initializers.values())
    onnx_ir.save(fused, str(out), external_data=f"{out.name}.data" if beside else None)
    return sum(counts.values())


def quantize(file: Path, out: Path) -> None:
    """Write a copy of a file whose matrix products use 8-bit weights and activations.

    Weights are rounded once; each activation tensor is rounded by its own range when the file runs (dynamic
    quantization), so no calibration rows are needed.

    Args:
        file: The ONNX file.
        out: Where to.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # it recommends a preprocessing that the exporter has done
    try:
        quantize_dynamic(file, out, weight_type=QuantType.QInt8, use_external_data_format=_is_large(file))
    finally:
        root.setLevel(level)


def _is_large(file: Path) -> bool:
    return file.with_name(f"{file.name}.data").exists()
