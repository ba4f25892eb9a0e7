"""What the ULX3S boards have in common: their SDRAM."""

from __future__ import annotations

from hwattn.spec.sdram import Sdram

SDRAM = Sdram()
"""4 banks x 8192 rows x 512 columns of 16 bits. The boards bear chips of several makers: each time is at least that of the slowest that is
known (IS42S16160-7, MT48LC16M16-75, AS4C16M16)."""

MEMORY = "32 MiB SDRAM, external memory of machines with external_words"
