"""Triton's interpreter, which runs what is written for a GPU on a CPU."""

from typing import Any

import numpy as np
import pytest


def mend_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets it multiply bfloat16: it takes their bits for whole numbers (Triton 3.8)."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    language = pytest.importorskip("triton.language")
    multiply = interpreter.InterpreterBuilder.create_dot

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != language.bfloat16:
            return handle
        numbers = (handle.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(numbers, language.float32)

    def create_dot(builder: Any, a: Any, b: Any, *others: Any) -> Any:
        return multiply(builder, widened(a), widened(b), *others)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
