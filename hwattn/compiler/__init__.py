"""From a quantized model and a configuration to a program."""

from hwattn.compiler.compile import compile_model
from hwattn.compiler.verify import verify_program

__all__ = ["compile_model", "verify_program"]
