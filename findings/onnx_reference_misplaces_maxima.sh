#!/usr/bin/env bash
# With stride 1, the positions that MaxPool gives in ONNX's reference evaluator are not those of the maxima.
#
# Guess: the second output of MaxPool is the index of each maximum in the flattened input, so x.ravel()[indices] is the
#   first output, whatever kernel, stride and padding.
# Versions: onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, on a CPU.
# What happens: strides other than 1 and dilations have a routine of their own, which counts right. With stride 1, the
#   default, one for all kinds of pooling takes over (_op_common_pool.py in onnx/reference/ops). It reads the place in
#   the window as if the window were as wide as the output, and forgets image and channel. The maxima themselves are
#   right, and so are the indices of ONNX Runtime.
# Who is hurt: whoever goes back by the indices (MaxUnpool in segmentation and decoders) or counts which inputs win,
#   as scores of units for pruning do; and whoever tests a backend against the reference.
# Remedy: take the indices from ONNX Runtime; in a test, compare x.ravel()[indices] with the maxima.
#
# Output seen (share of indices at which the maximum stands, 16 images of 3 channels of 8 x 8):
#   kernel 2, stride 1: values equal, reference 1 %, ONNX Runtime 100 %
#   kernel 2, stride 2: values equal, reference 100 %, ONNX Runtime 100 %
#   kernel 3, stride 1: values equal, reference 1 %, ONNX Runtime 100 %
#   kernel 3, stride 2: values equal, reference 100 %, ONNX Runtime 100 %

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper
from onnx.reference import ReferenceEvaluator

x = np.random.default_rng(0).permutation(16 * 3 * 64).reshape(16, 3, 8, 8).astype(np.float32)
for kernel in (2, 3):
    for stride in (1, 2):
        node = helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[kernel] * 2, strides=[stride] * 2)
        shape = [16, 3] + [(8 - kernel) // stride + 1] * 2
        outputs = [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("i", TensorProto.INT64, shape),
        ]
        graph = helper.make_graph(
            [node], "pool", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)], outputs
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        checker.check_model(model, full_check=True)
        ours = ReferenceEvaluator(model).run(None, {"x": x})
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        theirs = session.run(None, {"x": x})
        assert np.array_equal(ours[0], theirs[0]) and ours[1].shape == theirs[1].shape
        hits = [float((x.ravel()[found[1]] == found[0]).mean()) for found in (ours, theirs)]
        print(
            f"kernel {kernel}, stride {stride}: values equal,",
            f"reference {100 * hits[0]:.0f} %, ONNX Runtime {100 * hits[1]:.0f} %",
        )
        assert hits[1] == 1
        if stride == 1:
            assert hits[0] < 0.5, "the reference finds the maxima now"
        else:
            assert hits[0] == 1
PYTHON
