// A C interface to one machine, for ctypes: its memories, single instructions, and the functions of the units on arrays.
#include <cstddef>

#include "config.hpp"
#include "machine.hpp"

using namespace hwattn;

typedef State<Config> Machine;

static Machine machine;
static Machine::word_t* external;

extern "C" {

// `weights` stays in use where there is external memory.
void hwattn_load(
    const unsigned* extent,
    int8_t* weights,
    const uint64_t* params,
    const uint64_t* norm,
    const uint64_t* table,
    unsigned interval_shift,
    const int8_t* instructions) {
    const Extent counts = {extent[0], extent[1], extent[2], extent[3]};
    external = reinterpret_cast<Machine::word_t*>(weights);
    load_machine(
        machine,
        counts,
        external,
        params,
        norm,
        table,
        interval_shift,
        reinterpret_cast<const InstructionWord*>(instructions));
}

int hwattn_execute(const int8_t* instruction) {
    return execute(machine, external, encoded(*reinterpret_cast<const InstructionWord*>(instruction)));
}

int hwattn_run(unsigned entry) { return run(machine, external, entry); }

// A memory by its number, and its size in bytes.
void* hwattn_memory(int number, uint64_t* bytes) {
    struct Region {
        void* start;
        size_t bytes;
    };
    const Region regions[] = {
        {machine.act, sizeof machine.act},
        {machine.slots, sizeof machine.slots},
        {machine.accumulators, sizeof machine.accumulators},
        {machine.softmax, sizeof machine.softmax},
        {machine.queue_token, sizeof machine.queue_token},
        {machine.queue_gate, sizeof machine.queue_gate},
        {machine.queue_count, sizeof machine.queue_count},
        {machine.metaqueue, sizeof machine.metaqueue},
        {&machine.metaqueue_length, sizeof machine.metaqueue_length},
    };
    *bytes = regions[number].bytes;
    return regions[number].start;
}

void hwattn_activate(int64_t count, const int32_t* v, int32_t* result) {
    for (int64_t i = 0; i < count; ++i) result[i] = activate(ap_int<ACTIVATION_INPUT_BITS>(v[i]), machine.table).to_int();
}

void hwattn_probability(int64_t count, const uint32_t* distance, uint32_t* result) {
    for (int64_t i = 0; i < count; ++i) result[i] = probability(ap_uint<17>(distance[i])).to_uint();
}

void hwattn_reciprocal(int64_t count, const uint32_t* total, const uint32_t* m2, const uint32_t* s2, uint32_t* result) {
    for (int64_t i = 0; i < count; ++i) {
        const Scaling scaling = reciprocal(total[i], m2[i], s2[i]);
        result[2 * i] = scaling.multiplier.to_uint();
        result[2 * i + 1] = scaling.shift.to_uint();
    }
}

void hwattn_reciprocal_square_root(int64_t count, const uint64_t* variance, uint32_t* result) {
    for (int64_t i = 0; i < count; ++i) {
        const RowScale scale = reciprocal_square_root(ap_uint<VARIANCE_BITS>(variance[i]));
        result[2 * i] = scale.significand.to_uint();
        result[2 * i + 1] = scale.shift.to_uint();
    }
}

void hwattn_requantize(int64_t count, const int64_t* accumulator, const uint32_t* m, const uint32_t* s, int32_t* result) {
    for (int64_t i = 0; i < count; ++i) result[i] = requantize<RESULT_BITS>(ap_int<33>(accumulator[i]), m[i], s[i]).to_int();
}
}
