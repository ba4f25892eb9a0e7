// Top of the machine: memories on chip, filled over AXI once; then an image in, an output back.
#include "machine_top.hpp"

int hwattn_machine(
    bool load,
    unsigned task,
    word_t* weights,
    const uint64_t* params,
    const uint64_t* norm,
    const uint64_t* table,
    const InstructionWord* program,
    const word_t* image,
    word_t* output) {
#pragma HLS INTERFACE mode=m_axi port=weights bundle=words offset=slave depth=EXTENT_WEIGHTS
#pragma HLS INTERFACE mode=m_axi port=params bundle=entries offset=slave depth=EXTENT_PARAMS
#pragma HLS INTERFACE mode=m_axi port=norm bundle=entries offset=slave depth=EXTENT_NORM
#pragma HLS INTERFACE mode=m_axi port=table bundle=entries offset=slave depth=ACTIVATION_INTERVALS
#pragma HLS INTERFACE mode=m_axi port=program bundle=program offset=slave depth=EXTENT_INSTRUCTIONS
#pragma HLS INTERFACE mode=m_axi port=image bundle=words offset=slave depth=IMAGE_WORDS
#pragma HLS INTERFACE mode=m_axi port=output bundle=words offset=slave depth=OUTPUT_WORDS
#pragma HLS INTERFACE mode=s_axilite port=load
#pragma HLS INTERFACE mode=s_axilite port=task
#pragma HLS INTERFACE mode=s_axilite port=return
    static State<Config> state;
#pragma HLS AGGREGATE variable=state.act
#pragma HLS AGGREGATE variable=state.weight
#pragma HLS AGGREGATE variable=state.slots
#pragma HLS ARRAY_PARTITION variable=state.slots type=complete dim=2
#pragma HLS ARRAY_PARTITION variable=state.accumulators type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=state.softmax type=complete dim=2
    if (load) {
        const Extent extent = {EXTENT_WEIGHTS, EXTENT_PARAMS, EXTENT_NORM, EXTENT_INSTRUCTIONS};
        load_machine(state, extent, weights, params, norm, table, INTERVAL_SHIFT, program);
    }
    if (task >= TASKS) return ErrorCause::END_OF_PROGRAM;
    copy_words((IMAGE_EXTERNAL ? weights : state.act) + IMAGE_BASE, image, IMAGE_WORDS);
    const int cause = run(state, weights, ENTRY[task]);
    unsigned written = 0;
    for (int port = 0; port < PORTS; ++port) {
        if (PORT_TASK[port] != int(task)) continue;
        for (int row = 0; row < PORT_ROWS[port]; ++row) {
            copy_words(output + written, state.act + PORT_BASE[port] + row * PORT_STRIDE[port], PORT_ROW_WORDS[port]);
            written += PORT_ROW_WORDS[port];
        }
    }
    return cause;
}
