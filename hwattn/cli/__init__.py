"""The command line: one module per verb; the only room that imports every other one."""
