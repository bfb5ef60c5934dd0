"""Optimization of ONNX files for onnxruntime: fused operators and 8-bit weights."""

from __future__ import annotations

import logging
from pathlib import Path

INT8_FILE = "model.int8.onnx"


def fuse(file: Path, out: Path) -> int:
    """Write a copy of a file with onnxruntime's fused operators for attention and residual norms.

    Args:
        file: The ONNX file written by torch.
        out: The file to write. Weights are stored in a separate file if they are for `file`.

    Returns:
        The number of replaced groups of operators.
    """
    import onnx_ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    model = onnx_ir.load(str(file))
    fused, counts = optimize_for_ort(model)
    beside = any(isinstance(value.const_value, onnx_ir.ExternalTensor) for value in model.graph.initializers.values())
    onnx_ir.save(fused, str(out), external_data=f"{out.name}.data" if beside else None)
    return sum(counts.values())


def quantize(file: Path, out: Path) -> None:
    """Write a copy of a file with 8-bit weights and activations in matrix products.

    Weights are rounded once; activations are rounded at run time, each tensor by its own range (dynamic quantization),
    so no calibration rows are needed.

    Args:
        file: The ONNX file.
        out: The file to write.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # it recommends preprocessing that the exporter has already done
    try:
        quantize_dynamic(file, out, weight_type=QuantType.QInt8, use_external_data_format=_is_large(file))
    finally:
        root.setLevel(level)


def _is_large(file: Path) -> bool:
    return file.with_name(f"{file.name}.data").exists()
