// External memory: fetches into the weight buffer or the activation memory, and stores, as sim/model/external.py.
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

// Copy runs of external words into the weight buffer or the activation memory.
template <class C>
void fetch(State<C>& state, const Word<C::lanes>* external, const Fetch& instruction) {
    const Active where = active(state, instruction);
    if (!where.runs) return;
    unsigned source = instruction.source.to_uint() + where.expert * instruction.expert_stride.to_uint();
    unsigned target = instruction.target.to_uint();
    for (unsigned index = 0; index < instruction.runs.to_uint(); ++index) {
        if (instruction.memory == Memory::ACT)
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
