/* Generated from hwattn/spec/registers.py (python -m hwattn.spec.register_map); do not edit. */
#ifndef HWATTN_REGISTERS_H
#define HWATTN_REGISTERS_H

#define HWATTN_IDENTIFICATION 0x74617768u
#define HWATTN_VERSION 0x1u
#define HWATTN_REGION_SHIFT 0x1cu
#define HWATTN_AXI_BYTES 0x1000u
#define HWATTN_AXI_CSR_BYTES 0x800u
#define HWATTN_AXI_ADDRESS 0x800u
#define HWATTN_AXI_DATA 0x804u
#define HWATTN_LINK_REQUEST 0x5au
#define HWATTN_LINK_ANSWER 0xa5u
#define HWATTN_LINK_COUNT_MAX 0x40u
#define HWATTN_LINK_HEADER_BYTES 0x7u
#define HWATTN_LINK_ANSWER_HEADER_BYTES 0x3u
#define HWATTN_LINK_CRC_BYTES 0x4u
#define HWATTN_LINK_UNIT_BYTES 0x4u
#define HWATTN_LINK_SILENCE_BYTES 0x40u
#define HWATTN_COUNTERS_FIRST 32u
#define HWATTN_COUNTERS 40u

/* Region: Where an address points; `ACT` and `EXTERNAL` can be read and written, `CSR` as its registers say, the others be written. */
#define HWATTN_REGION_CSR 0u
#define HWATTN_REGION_ACT 1u
#define HWATTN_REGION_WEIGHT 2u
#define HWATTN_REGION_PARAM 3u
#define HWATTN_REGION_NORM 4u
#define HWATTN_REGION_TABLE 5u
#define HWATTN_REGION_PROGRAM 6u
#define HWATTN_REGION_EXTERNAL 7u

/* Register: Unit numbers of region CSR. */
#define HWATTN_REGISTER_IDENTIFICATION 0u
#define HWATTN_REGISTER_VERSION 1u
#define HWATTN_REGISTER_CONFIG_HASH 2u
#define HWATTN_REGISTER_PROGRAM_HASH 3u /* Written by the host after it has written a program; the machine starts with that of its initial contents, or 0. */
#define HWATTN_REGISTER_CONTROL 4u /* Write only; bits of `Control`. */
#define HWATTN_REGISTER_ENTRY 5u /* Instruction at which a start begins. */
#define HWATTN_REGISTER_STATUS 6u /* Bits of `Status`. */
#define HWATTN_REGISTER_ERROR 7u /* One of `ErrorCause`. */
#define HWATTN_REGISTER_PC 8u /* Next instruction to be fetched. */
#define HWATTN_REGISTER_INTERVAL_SHIFT 9u /* log2 of the activation table's interval: 6 or 7. */
#define HWATTN_REGISTER_SCAN_BASE 10u /* First word of a scan: of the activation memory, or of external memory. */
#define HWATTN_REGISTER_SCAN_WORDS 11u /* Number of words of a scan, at least 1. */
#define HWATTN_REGISTER_SCAN_CRC 12u /* CRC-32 (that of zlib) of the bytes of the last scan. */
#define HWATTN_REGISTER_BUS_TIMEOUT 13u /* Cycles without progress of a transfer from or to external memory after which the machine stops; at first `BUS_TIMEOUT_CYCLES`. */
#define HWATTN_REGISTER_EXTERNAL_PAGE 14u /* Where external memory starts, in pages of 4 KiB; with several ports, that address times their number (`hwattn.spec.stripes`). */
#define HWATTN_REGISTER_EXTERNAL_WINDOW 15u /* Which part of external memory region EXTERNAL shows: that from unit EXTERNAL_WINDOW << 28 on. */
#define HWATTN_REGISTER_HEAD 16u /* HEAD + queue: the oldest instruction of a queue that has not ended, with bit 16 set if there is one, bit 17 if its unit works on it. */
#define HWATTN_REGISTER_CYCLES 32u /* Counters start at 0 with every start and count while the machine runs. */
#define HWATTN_REGISTER_MATRIX_ACTIVE 33u /* Cycles in which the multipliers worked on a streamed word. */
#define HWATTN_REGISTER_ISSUED 34u /* Instructions issued, skipped ones among them. */
#define HWATTN_REGISTER_SKIPPED 35u /* Instructions skipped because their expert's queue was too short. */
#define HWATTN_REGISTER_BUSY 36u /* BUSY + queue: cycles in which the queue's unit worked. */
#define HWATTN_REGISTER_WAITING 44u /* WAITING + queue: cycles in which the queue's head waited for a token and its unit was idle. */
#define HWATTN_REGISTER_READ_STALL 52u /* READ_STALL + reader of `ActReader`: cycles lost to a reader of higher priority in the same bank. */
#define HWATTN_REGISTER_WRITE_STALL 60u /* WRITE_STALL + writer of `ActWriter`. */
#define HWATTN_REGISTER_WEIGHT_STALL 68u /* WEIGHT_STALL + reader of `WeightReader`. */
#define HWATTN_REGISTER_READ_BEATS 70u /* Words that came from external memory. */
#define HWATTN_REGISTER_WRITE_BEATS 71u /* Words that went to external memory. */

/* Control: What a write to `CONTROL` does. */
#define HWATTN_CONTROL_START 1u /* Begin at ENTRY. */
#define HWATTN_CONTROL_SINGLE_STEP 2u /* With START: stop before every instruction until STEP, and let each end before the next begins. */
#define HWATTN_CONTROL_STEP 4u /* Run the next instruction. */
#define HWATTN_CONTROL_RESET 8u /* Stop at once and bring every unit to rest; memories keep their contents. */
#define HWATTN_CONTROL_SCAN 16u /* Compute the CRC-32 of SCAN_WORDS activation words from SCAN_BASE. The next request is answered when it is there. */
#define HWATTN_CONTROL_CLEAR 32u /* Write zeros to SCAN_WORDS activation words from SCAN_BASE; the next request waits for the last one. */
#define HWATTN_CONTROL_SCAN_EXTERNAL 64u /* As SCAN, of words of external memory. */

/* Status: Bits of `STATUS`. */
#define HWATTN_STATUS_RUNNING 1u
#define HWATTN_STATUS_PAUSED 2u /* Single-step: everything has come to rest before the instruction at PC. */
#define HWATTN_STATUS_DONE 4u
#define HWATTN_STATUS_ERROR 8u

/* ErrorCause: Why a machine stopped with `Status.ERROR`. */
#define HWATTN_ERRORCAUSE_NONE 0u
#define HWATTN_ERRORCAUSE_UNKNOWN_INSTRUCTION 1u
#define HWATTN_ERRORCAUSE_END_OF_PROGRAM 2u /* No Halt before the end of the program memory. */
#define HWATTN_ERRORCAUSE_BUS_READ 3u /* External memory answered a read with an error. */
#define HWATTN_ERRORCAUSE_BUS_WRITE 4u /* External memory answered a write with an error. */
#define HWATTN_ERRORCAUSE_BUS_TIMEOUT 5u /* External memory did not go on with a transfer for BUS_TIMEOUT cycles. */

/* ActReader: Readers of the activation memory, the highest priority first. */
#define HWATTN_ACTREADER_MATRIX 0u
#define HWATTN_ACTREADER_POST 1u
#define HWATTN_ACTREADER_NORM 2u
#define HWATTN_ACTREADER_LOAD 3u
#define HWATTN_ACTREADER_STORE 4u
#define HWATTN_ACTREADER_HOST 5u

/* ActWriter: Writers of the activation memory, the highest priority first. */
#define HWATTN_ACTWRITER_POST 0u
#define HWATTN_ACTWRITER_NORM 1u
#define HWATTN_ACTWRITER_LOAD 2u
#define HWATTN_ACTWRITER_FETCH 3u
#define HWATTN_ACTWRITER_HOST 4u

/* WeightReader: Readers of the weight memory, the highest priority first. */
#define HWATTN_WEIGHTREADER_MATRIX 0u
#define HWATTN_WEIGHTREADER_LOAD 1u

#endif
