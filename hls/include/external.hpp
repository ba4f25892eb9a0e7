// External memory: fetches into the weight buffer, the activation memory and the memories of parameters, and stores, as
// sim/model/external.py.
#ifndef HWATTN_EXTERNAL_HPP
#define HWATTN_EXTERNAL_HPP
#include "predicate.hpp"

namespace hwattn {

// Copy words, one per cycle, as one burst.
template <int LANES>
void copy_words(Word<LANES>* target, const Word<LANES>* source, unsigned words) {
    for (unsigned index = 0; index < words; ++index) {
#pragma HLS PIPELINE II=1
        target[index] = source[index];
    }
}

// Write the entries that lie in external words, two 32-bit units each, into the parameter or the norm memory.
template <class C>
void fetch_entries(State<C>& state, int memory, unsigned target, const Word<C::lanes>* source, unsigned words) {
    constexpr int units = C::lanes / UNIT_BYTES;
    ap_uint<32> first = 0;
    for (unsigned index = 0; index < words * units; ++index) {
#pragma HLS PIPELINE II=1
        ap_uint<32> unit;
        for (int byte = 0; byte < UNIT_BYTES; ++byte) {
#pragma HLS UNROLL
            const int lane = index % units * UNIT_BYTES + byte;
            unit.range(8 * byte + 7, 8 * byte) = ap_uint<8>(uint8_t(source[index / units].byte[lane]));
        }
        if (index % 2) {
            ap_uint<64> entry = 0;
            entry.range(31, 0) = first;
            entry.range(63, 32) = unit;
            if (memory == Memory::PARAM)
                state.param[target + index / 2] = parameter(entry);
            else
                state.norm[target + index / 2] = entry;
        }
        first = unit;
    }
}

// Copy runs of external words into another memory.
template <class C>
void fetch(State<C>& state, const Word<C::lanes>* external, const Fetch& instruction) {
    const Active where = active(state, instruction);
    if (!where.runs) return;
    unsigned source = instruction.source.to_uint() + where.expert * instruction.expert_stride.to_uint();
    unsigned target = instruction.target.to_uint();
    for (unsigned index = 0; index < instruction.runs.to_uint(); ++index) {
        if (instruction.memory == Memory::PARAM || instruction.memory == Memory::NORM)
            fetch_entries(state, instruction.memory.to_int(), target, external + source, instruction.words.to_uint());
        else if (instruction.memory == Memory::ACT)
            copy_words(state.act + target, external + source, instruction.words.to_uint());
        else
            copy_words(state.weight + target, external + source, instruction.words.to_uint());
        source += instruction.source_stride.to_uint();
        target += instruction.target_stride.to_uint();
    }
}

// Copy runs of words of the activation memory to external memory.
template <class C>
void store(const State<C>& state, Word<C::lanes>* external, const Store& instruction) {
    unsigned source = instruction.source.to_uint(), target = instruction.target.to_uint();
    for (unsigned index = 0; index < instruction.runs.to_uint(); ++index) {
        copy_words(external + target, state.act + source, instruction.words.to_uint());
        source += instruction.source_stride.to_uint();
        target += instruction.target_stride.to_uint();
    }
}

}  // namespace hwattn

#endif
