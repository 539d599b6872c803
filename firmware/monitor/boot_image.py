"""Writes a boot image for the BootROM of the Zynq-7000: a header, and a program for the on-chip memory.

``boot_image.py PROGRAM IMAGE``. The header is the one of UG585 section 6.3.2, table 6-5, without encryption or
authentication, and without initial register values: the program sets up what it needs.
"""

import argparse
import struct
import sys
from pathlib import Path

#: What the BootROM loads at most: the on-chip memory without the part that it uses itself.
MAX_BYTES = 192 * 1024
#: Bytes of the header; the program follows. The BootROM wants a multiple of 64.
HEADER_BYTES = 0x8C0

#: An ARM branch to itself, for each exception vector: the program sets its own (VBAR).
_VECTOR = 0xEAFFFFFE
#: Quad-SPI width detection, and "XNLX".
_WIDTH_DETECTION, _SIGNATURE = 0xAA995566, 0x584C4E58
#: The end of the register initialisation pairs.
_NO_REGISTER = 0xFFFFFFFF


def boot_image(program: bytes) -> bytes:
    """The image of a program that is loaded and entered at address 0.

    Raises ValueError if it does not fit.
    """
    program += bytes(-len(program) % 4)
    if not 0 < len(program) <= MAX_BYTES:
        raise ValueError(f"a program must have 1 to {MAX_BYTES} bytes, not {len(program)}")
    checked = struct.pack(
        "<10I",
        _WIDTH_DETECTION,
        _SIGNATURE,
        0,  # not encrypted
        0,  # for the user
        HEADER_BYTES,  # where the program is in the image
        len(program),
        0,  # address to load at; anything else is refused
        0,  # address to enter at
        len(program),  # again: it is not signed
        0,
    )
    checksum = ~sum(struct.unpack("<10I", checked)) & 0xFFFFFFFF
    header = struct.pack("<8I", *[_VECTOR] * 8) + checked + struct.pack("<I", checksum)
    header += bytes(0xA0 - len(header)) + struct.pack("<2I", _NO_REGISTER, 0) * 256
    return header + bytes(HEADER_BYTES - len(header)) + program


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a boot image for the BootROM of the Zynq-7000.")
    parser.add_argument("program", type=Path, help="what the BootROM shall run at address 0")
    parser.add_argument("image", type=Path, help="the file to write, BOOT.BIN on an SD card")
    options = parser.parse_args()
    try:
        image = boot_image(options.program.read_bytes())
    except (OSError, ValueError) as error:
        sys.exit(f"boot_image.py: {error}")
    options.image.write_bytes(image)


if __name__ == "__main__":
    main()
