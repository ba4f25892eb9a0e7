// What a host does with a machine: fills its memories, writes an image, runs a task, reads the output. The entries of the memories
// are the 32-bit units of hwattn/spec/transfer.py, two to a uint64_t, the same as the RTL's host sends.
#ifndef HWATTN_MACHINE_HPP
#define HWATTN_MACHINE_HPP
#include "executor.hpp"

namespace hwattn {

constexpr int INSTRUCTION_BYTES = INSTRUCTION_BITS / 8;
typedef Word<INSTRUCTION_BYTES> InstructionWord;

// How many entries of each memory a program uses.
struct Extent {
    unsigned weights, params, norm, instructions;
};

inline Encoded encoded(const InstructionWord& bytes) {
#pragma HLS INLINE
    Encoded word = 0;
    for (int index = 0; index < INSTRUCTION_BYTES; ++index) {
#pragma HLS UNROLL
        word.range(8 * index + 7, 8 * index) = ap_uint<8>(uint8_t(bytes.byte[index]));
    }
    return word;
}

template <class C>
void load_params(State<C>& state, const uint64_t* entries, unsigned count) {
    for (unsigned index = 0; index < count; ++index) {
#pragma HLS PIPELINE II=1
        state.param[index] = parameter(entries[index]);
    }
}

// beta, then gamma; or the bias of a gate.
template <class C>
void load_norm(State<C>& state, const uint64_t* entries, unsigned count) {
    for (unsigned index = 0; index < count; ++index) {
#pragma HLS PIPELINE II=1
        state.norm[index] = entries[index];
    }
}

// value, then difference, of each interval.
inline void load_table(ActivationTable& table, const uint64_t* entries, unsigned interval_shift) {
    for (int index = 0; index < ACTIVATION_INTERVALS; ++index) {
#pragma HLS PIPELINE II=1
        const ap_uint<64> entry = entries[index];
        table.value[index] = ap_uint<32>(entry.range(31, 0));
        table.difference[index] = ap_uint<32>(entry.range(63, 32));
    }
    table.interval_shift = interval_shift;
}

template <class C>
void load_program(State<C>& state, const InstructionWord* instructions, unsigned count) {
    for (unsigned index = 0; index < count; ++index) {
#pragma HLS PIPELINE II=1
        state.program[index] = encoded(instructions[index]);
    }
}

// Fill every memory of the machine. With external memory, `weights` is that memory, and stays where it is.
template <class C>
void load_machine(
    State<C>& state,
    const Extent& extent,
    const Word<C::lanes>* weights,
    const uint64_t* params,
    const uint64_t* norm,
    const uint64_t* table,
    unsigned interval_shift,
    const InstructionWord* instructions) {
    if (C::external_words == 0) copy_words(state.weight, weights, extent.weights);
    load_params(state, params, extent.params);
    load_norm(state, norm, extent.norm);
    load_table(state.table, table, interval_shift);
    load_program(state, instructions, extent.instructions);
}

}  // namespace hwattn

#endif
