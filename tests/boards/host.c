/* The C driver on a serial port: opens a machine, writes an image, runs a task, and prints result, cycles and the units it asks for.
 * usage: host PORT CONFIG_HASH ENTRY IMAGE_UNIT OUTPUT_UNIT OUTPUT_UNITS < image (32-bit units, one decimal number a line) */
#define _DEFAULT_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "hwattn.h"

static int port;

static void send_bytes(void *context, const uint8_t *bytes, size_t count)
{
    (void)context;
    tcflush(port, TCIFLUSH);
    while (count) {
        ssize_t done = write(port, bytes, count);
        if (done <= 0)
            exit(9);
        bytes += done;
        count -= (size_t)done;
    }
}

static size_t receive_bytes(void *context, uint8_t *bytes, size_t count)
{
    (void)context;
    size_t came = 0;
    struct pollfd ready = {.fd = port, .events = POLLIN};
    while (came < count && poll(&ready, 1, 500) > 0) {
        ssize_t done = read(port, bytes + came, count - came);
        if (done <= 0)
            break;
        came += (size_t)done;
    }
    return came;
}

static void settle(void *context)
{
    (void)context;
    usleep(150000);
}

int main(int argc, char **argv)
{
    static uint32_t units[1 << 16];
    if (argc != 7 || (port = open(argv[1], O_RDWR | O_NOCTTY)) < 0)
        return 8;
    struct termios raw;
    tcgetattr(port, &raw);
    cfmakeraw(&raw);
    tcsetattr(port, TCSANOW, &raw);
    hwattn machine = {.line = {send_bytes, receive_bytes, settle, NULL}};
    uint32_t wanted = (uint32_t)strtoul(argv[2], NULL, 16), entry = (uint32_t)atoi(argv[3]);
    uint32_t image = (uint32_t)atoi(argv[4]), output = (uint32_t)atoi(argv[5]);
    size_t outputs = (size_t)atoi(argv[6]), count = 0;
    while (count < sizeof units / sizeof *units && scanf("%u", &units[count]) == 1)
        count++;
    hwattn_result result = hwattn_open(&machine, wanted);
    if (result == HWATTN_OK)
        result = hwattn_write(&machine, HWATTN_ADDRESS(HWATTN_REGION_ACT, image), units, count);
    if (result == HWATTN_OK)
        result = hwattn_run(&machine, entry, 5);
    uint32_t counters[HWATTN_COUNTERS] = {0};
    if (result == HWATTN_OK)
        result = hwattn_counters(&machine, counters);
    if (result == HWATTN_OK)
        result = hwattn_read(&machine, HWATTN_ADDRESS(HWATTN_REGION_ACT, output), units, outputs);
    printf("%d %u %08x %u %u\n", (int)result, counters[0], machine.config_hash, machine.cause, machine.position);
    for (size_t unit = 0; result == HWATTN_OK && unit < outputs; unit++)
        printf("%u\n", units[unit]);
    return 0;
}
