"""The machine behind AXI4-Lite, with its AXI4 masters, as an IP-XACT component (IEEE 1685-2009, as Vivado reads it)."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from hwattn.boards.vivado_wrapper import BUS, MODULE, Port, bus_ports
from hwattn.rtl.axi import ADDRESS_BITS
from hwattn.rtl.machine import STATUS_BITS
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.registers import AXI_BYTES, VERSION

SPIRIT = "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"


def component(core: str, wrapper: str, config: AcceleratorConfig, masters: int) -> str:
    """Return ``component.xml`` for the Verilog files `core` and `wrapper` of a machine with so many AXI4 masters."""
    buses = bus_ports(config, masters)
    ET.register_namespace("spirit", SPIRIT)
    root = ET.Element(_tag("component"))
    _library(root, "hwattn.org", "accelerators", "hwattn", f"{VERSION}.0")
    _interfaces(_child(root, "busInterfaces"), buses)
    if masters:
        spaces = _child(root, "addressSpaces")
        for bus in buses:
            if bus != BUS:
                space = _child(spaces, "addressSpace")
                _child(space, "name", bus)
                _child(space, "range", str(1 << ADDRESS_BITS))
                _child(space, "width", str(8 * config.lanes // masters))
    _memory_map(_child(_child(root, "memoryMaps"), "memoryMap"))
    model = _child(root, "model")
    view = _child(_child(model, "views"), "view")
    for name, text in (
        ("name", "synthesis"),
        ("envIdentifier", "verilogSource:vivado.xilinx.com:synthesis"),
        ("language", "verilog"),
        ("modelName", MODULE),
    ):
        _child(view, name, text)
    _child(_child(view, "fileSetRef"), "localName", "sources")
    _ports(_child(model, "ports"), buses)
    files = _child(_child(root, "fileSets"), "fileSet")
    _child(files, "name", "sources")
    for file in (core, wrapper):
        entry = _child(files, "file")
        _child(entry, "name", file)
        _child(entry, "fileType", "verilogSource")
    _child(
        root, "description", "Accelerator for vision transformers and mixtures of experts, written by hwattn"
    )
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _interfaces(interfaces: ET.Element, buses: dict[str, list[Port]]) -> None:
    """Add the slave port and the masters, their clock and reset, and the interrupt."""
    for bus, ports in buses.items():
        names = {name.removeprefix(f"{bus}_").upper(): name for _, name, _ in ports}
        side = _interface(interfaces, bus, "aximm", "interface", names, slave=bus == BUS)
        reference = "memoryMapRef" if bus == BUS else "addressSpaceRef"
        ET.SubElement(side, _tag(reference), {_tag(reference): bus})
    _interface(
        interfaces,
        "clk",
        "clock",
        "signal",
        {"CLK": "clk"},
        parameters={"ASSOCIATED_BUSIF": ":".join(buses), "ASSOCIATED_RESET": "rst_n"},
        slave=True,
    )
    _interface(
        interfaces,
        "rst_n",
        "reset",
        "signal",
        {"RST": "rst_n"},
        parameters={"POLARITY": "ACTIVE_LOW"},
        slave=True,
    )
    _interface(
        interfaces,
        "interrupt",
        "interrupt",
        "signal",
        {"INTERRUPT": "interrupt"},
        parameters={"SENSITIVITY": "LEVEL_HIGH"},
        slave=False,
    )


def _memory_map(memory_map: ET.Element) -> None:
    """Add the window of the slave port."""
    _child(memory_map, "name", BUS)
    block = _child(memory_map, "addressBlock")
    for name, text in (
        ("name", "registers"),
        ("baseAddress", "0"),
        ("range", str(AXI_BYTES)),
        ("width", "32"),
        ("usage", "register"),
    ):
        _child(block, name, text)


def _tag(name: str) -> str:
    return f"{{{SPIRIT}}}{name}"


def _child(parent: ET.Element, name: str, text: str | None = None) -> ET.Element:
    made = ET.SubElement(parent, _tag(name))
    made.text = text
    return made


def _library(root: ET.Element, vendor: str, library: str, name: str, version: str) -> None:
    for key, text in (("vendor", vendor), ("library", library), ("name", name), ("version", version)):
        _child(root, key, text)


def _interface(
    parent: ET.Element,
    name: str,
    kind: str,
    library: str,
    ports: dict[str, str],
    *,
    slave: bool,
    parameters: dict[str, str] | None = None,
) -> ET.Element:
    """Add a bus interface; return its element ``slave`` or ``master``."""
    entry = _child(parent, "busInterface")
    _child(entry, "name", name)
    kinds = {_tag("vendor"): "xilinx.com", _tag("library"): library, _tag("version"): "1.0"}
    ET.SubElement(entry, _tag("busType"), {**kinds, _tag("name"): kind})
    ET.SubElement(entry, _tag("abstractionType"), {**kinds, _tag("name"): f"{kind}_rtl"})
    side = _child(entry, "slave" if slave else "master")
    maps = _child(entry, "portMaps")
    for logical, physical in ports.items():
        port_map = _child(maps, "portMap")
        _child(_child(port_map, "logicalPort"), "name", logical)
        _child(_child(port_map, "physicalPort"), "name", physical)
    if parameters:
        listed = _child(entry, "parameters")
        for key, text in parameters.items():
            parameter = _child(listed, "parameter")
            _child(parameter, "name", key)
            _child(parameter, "value", text)
    return side


def _ports(parent: ET.Element, buses: dict[str, list[Port]]) -> None:
    """Add every port of the wrapper."""
    listed = [
        ("input", "clk", 1),
        ("input", "rst_n", 1),
        ("output", "status", STATUS_BITS),
        ("output", "interrupt", 1),
        *(port for ports in buses.values() for port in ports),
    ]
    for direction, name, bits in listed:
        port = _child(parent, "port")
        _child(port, "name", name)
        wire = _child(port, "wire")
        _child(wire, "direction", "in" if direction == "input" else "out")
        if bits > 1:
            vector = _child(wire, "vector")
            _child(vector, "left", str(bits - 1))
            _child(vector, "right", "0")
