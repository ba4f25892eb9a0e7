// Predication: whether an instruction runs, for which expert, and for how many rows, as sim/model/predicate.py.
#ifndef HWATTN_PREDICATE_HPP
#define HWATTN_PREDICATE_HPP
#include "state.hpp"

namespace hwattn {

struct Active {
    bool runs;
    unsigned expert;
    unsigned left;  // tokens of the expert's queue from entry `first` on

    // `rows` lowered to what is left.
    unsigned rows(unsigned wanted) const {
#pragma HLS INLINE
        return wanted < left ? wanted : left;
    }
};

// Without expert_enable an instruction runs for expert 0 on all its rows.
template <class C, class Instruction>
Active active(const State<C>& state, const Instruction& instruction) {
    Active found = {true, 0, ~0u};
    if (!instruction.expert_enable) return found;
    const unsigned meta = instruction.meta.to_uint();
    const unsigned first = instruction.first.to_uint();
    found.runs = meta < state.metaqueue_length;
    if (!found.runs) return found;
    found.expert = state.metaqueue[meta];
    const unsigned count = state.queue_count[found.expert];
    found.runs = count > first;
    found.left = found.runs ? count - first : 0;
    return found;
}

}  // namespace hwattn

#endif
