"""From a quantized model and a configuration to a program."""
