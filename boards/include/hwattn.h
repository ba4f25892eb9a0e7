/* A small host for microcontrollers: the frames of the serial link and what the driver does with them. C99, no allocation.
 *
 * Copyright 2026 The hwattn authors. SPDX-License-Identifier: Apache-2.0
 *
 * Give it three functions that move bytes, open the machine with the hash of the configuration that it must have (driver.json:
 * "config_hash"), load units if it holds another program, then run:
 *
 *     hwattn machine = {.line = {send, receive, settle, NULL}};
 *     if (hwattn_open(&machine, 0x12345678u) == HWATTN_OK) {
 *         hwattn_write(&machine, HWATTN_ADDRESS(HWATTN_REGION_ACT, image_unit), image, image_units);   (or REGION_EXTERNAL)
 *         hwattn_run(&machine, entry, 1000);
 *         hwattn_read(&machine, HWATTN_ADDRESS(HWATTN_REGION_ACT, output_unit), output, output_units);
 *     }
 */
#ifndef HWATTN_H
#define HWATTN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "hwattn_registers.h"

#define HWATTN_TRIES 6
#define HWATTN_ADDRESS(region, unit) (((uint32_t)(region) << HWATTN_REGION_SHIFT) | (uint32_t)(unit))

/* What every function returns. */
typedef enum {
    HWATTN_OK = 0,
    HWATTN_NO_ANSWER,       /* no good answer after HWATTN_TRIES tries */
    HWATTN_NOT_A_MACHINE,   /* another identification or version */
    HWATTN_OTHER_CONFIG,    /* a machine of another configuration: nothing was written */
    HWATTN_MACHINE_ERROR,   /* it stopped with an error: see machine.cause and machine.position */
    HWATTN_HUNG             /* it has not stopped, and was reset */
} hwattn_result;

typedef struct {
    /* Send bytes, after throwing away what was received before. */
    void (*send)(void *context, const uint8_t *bytes, size_t count);
    /* Receive up to `count` bytes; fewer when no more have come in time (half a second is enough). */
    size_t (*receive)(void *context, uint8_t *bytes, size_t count);
    /* Wait for HWATTN_LINK_SILENCE_BYTES byte times and a little more: the machine then forgets a broken frame. */
    void (*settle)(void *context);
    void *context;
} hwattn_line;

typedef struct {
    hwattn_line line;
    uint32_t config_hash, program_hash; /* read from the machine */
    uint32_t cause, position;           /* of the last error */
    uint8_t read_number, write_number;
    uint8_t begun;
} hwattn;

/* CRC-32 of zlib. */
static inline uint32_t hwattn_crc(const uint8_t *bytes, size_t count)
{
    uint32_t crc = 0xffffffffu;
    while (count--) {
        crc ^= *bytes++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1u ? 0xedb88320u : 0u);
    }
    return ~crc;
}

static inline void hwattn_store(uint8_t *bytes, uint32_t value)
{
    for (int byte = 0; byte < 4; byte++)
        bytes[byte] = (uint8_t)(value >> 8 * byte);
}

static inline uint32_t hwattn_fetch(const uint8_t *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* One frame of up to HWATTN_LINK_COUNT_MAX units: send it until a good answer comes. It keeps its number, so that a write is done once. */
static inline hwattn_result hwattn_exchange(hwattn *machine, int write, uint32_t address, uint32_t *units, size_t count)
{
    uint8_t frame[1 + HWATTN_LINK_HEADER_BYTES + 4 * HWATTN_LINK_COUNT_MAX + HWATTN_LINK_CRC_BYTES];
    uint8_t number = write ? ++machine->write_number : ++machine->read_number;
    size_t body = HWATTN_LINK_HEADER_BYTES + (write ? 4 * count : 0);
    size_t values = write ? 0 : count;
    size_t answered = HWATTN_LINK_ANSWER_HEADER_BYTES + 4 * values;

    for (int again = 0; again < HWATTN_TRIES; again++) {
        frame[0] = HWATTN_LINK_REQUEST;
        frame[1] = number;
        frame[2] = (uint8_t)(write ? 1 : 0);
        frame[3] = (uint8_t)count;
        hwattn_store(frame + 4, address);
        for (size_t unit = 0; write && unit < count; unit++)
            hwattn_store(frame + 8 + 4 * unit, units[unit]);
        hwattn_store(frame + 1 + body, hwattn_crc(frame + 1, body));
        machine->line.send(machine->line.context, frame, 1 + body + HWATTN_LINK_CRC_BYTES);

        size_t wanted = 1 + answered + HWATTN_LINK_CRC_BYTES;
        size_t came = machine->line.receive(machine->line.context, frame, wanted);
        if (came == wanted && frame[0] == HWATTN_LINK_ANSWER && frame[1] == number && frame[2] == 0 && frame[3] == values
            && hwattn_fetch(frame + 1 + answered) == hwattn_crc(frame + 1, answered)) {
            for (size_t unit = 0; unit < values; unit++)
                units[unit] = hwattn_fetch(frame + 4 + 4 * unit);
            return HWATTN_OK;
        }
        machine->line.settle(machine->line.context);
    }
    return HWATTN_NO_ANSWER;
}

/* Read consecutive units. */
static inline hwattn_result hwattn_read(hwattn *machine, uint32_t address, uint32_t *units, size_t count)
{
    for (size_t start = 0; start < count; start += HWATTN_LINK_COUNT_MAX) {
        size_t part = count - start < HWATTN_LINK_COUNT_MAX ? count - start : HWATTN_LINK_COUNT_MAX;
        hwattn_result result = hwattn_exchange(machine, 0, address + (uint32_t)start, units + start, part);
        if (result != HWATTN_OK)
            return result;
    }
    return HWATTN_OK;
}

/* Write consecutive units. */
static inline hwattn_result hwattn_write(hwattn *machine, uint32_t address, const uint32_t *units, size_t count)
{
    uint32_t block[HWATTN_LINK_COUNT_MAX];
    if (!machine->begun) {
        /* the machine skips a write numbered like the one before it, and an earlier host may have ended with any number */
        block[0] = 0;
        hwattn_result result = hwattn_exchange(machine, 1, HWATTN_REGISTER_CONTROL, block, 1);
        if (result != HWATTN_OK)
            return result;
        machine->begun = 1;
    }
    for (size_t start = 0; start < count; start += HWATTN_LINK_COUNT_MAX) {
        size_t part = count - start < HWATTN_LINK_COUNT_MAX ? count - start : HWATTN_LINK_COUNT_MAX;
        memcpy(block, units + start, part * sizeof *block);
        hwattn_result result = hwattn_exchange(machine, 1, address + (uint32_t)start, block, part);
        if (result != HWATTN_OK)
            return result;
    }
    return HWATTN_OK;
}

/* Read who the machine is, and refuse another one before anything is written. */
static inline hwattn_result hwattn_open(hwattn *machine, uint32_t config_hash)
{
    uint32_t identity[4];
    hwattn_result result =
        hwattn_read(machine, HWATTN_ADDRESS(HWATTN_REGION_CSR, HWATTN_REGISTER_IDENTIFICATION), identity, 4);
    if (result != HWATTN_OK)
        return result;
    if (identity[0] != HWATTN_IDENTIFICATION || identity[1] != HWATTN_VERSION)
        return HWATTN_NOT_A_MACHINE;
    machine->config_hash = identity[2];
    machine->program_hash = identity[3];
    return identity[2] == config_hash ? HWATTN_OK : HWATTN_OTHER_CONFIG;
}

/* Run the task whose program begins at `entry`; ask for the status `polls` times at most. */
static inline hwattn_result hwattn_run(hwattn *machine, uint32_t entry, unsigned polls)
{
    uint32_t value = entry;
    hwattn_result result = hwattn_write(machine, HWATTN_REGISTER_ENTRY, &value, 1);
    value = HWATTN_CONTROL_START;
    if (result == HWATTN_OK)
        result = hwattn_write(machine, HWATTN_REGISTER_CONTROL, &value, 1);
    while (result == HWATTN_OK && polls--) {
        result = hwattn_read(machine, HWATTN_REGISTER_STATUS, &value, 1);
        if (result != HWATTN_OK || value & HWATTN_STATUS_DONE)
            return result;
        if (value & HWATTN_STATUS_ERROR) {
            uint32_t error[2];
            result = hwattn_read(machine, HWATTN_REGISTER_ERROR, error, 2);
            machine->cause = error[0];
            machine->position = error[1];
            return result == HWATTN_OK ? HWATTN_MACHINE_ERROR : result;
        }
    }
    if (result != HWATTN_OK)
        return result;
    value = HWATTN_CONTROL_RESET;
    result = hwattn_write(machine, HWATTN_REGISTER_CONTROL, &value, 1);
    return result == HWATTN_OK ? HWATTN_HUNG : result;
}

/* Read the counters of the last run: HWATTN_COUNTERS units, the first of register HWATTN_COUNTERS_FIRST. */
static inline hwattn_result hwattn_counters(hwattn *machine, uint32_t counters[HWATTN_COUNTERS])
{
    return hwattn_read(machine, HWATTN_COUNTERS_FIRST, counters, HWATTN_COUNTERS);
}

#endif
