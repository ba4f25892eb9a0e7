"""The ground floor: configuration, numbers, instruction set, graph, quantized model and program."""
