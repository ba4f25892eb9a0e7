// Memory behind the machine's AXI4 port, for simulation: words of LANES bytes, read and written in bursts, with settable latency,
// bandwidth, random back-pressure and faults. The file that `+external=FILE` names ($readmemh) is its contents at the start.
//
// latency          cycles from a burst's address to its first word, and from its last word to the acknowledgement of a write
// beats, cycles    at most `beats` words in `cycles` cycles, reads and writes together
// stall            chance in 256, for each channel and cycle, that it is not ready or not valid
// fault, fault_at  after `fault_at` words: 1 a read is answered with an error, 2 a write is, 3 nothing moves any more
// peek             word whose contents appear at `peeked`
module axi_memory #(
  parameter LANES = 8,
  parameter WORDS = 1024,
  parameter ADDRESS_BITS = 40
) (
  input clk, input rst,
  input [15:0] latency, input [7:0] beats, input [7:0] cycles, input [7:0] stall,
  input [1:0] fault, input [31:0] fault_at,
  input [31:0] peek, output [8 * LANES - 1:0] peeked,
  input [ADDRESS_BITS - 1:0] araddr, input [7:0] arlen, input arvalid, output arready,
  output reg [8 * LANES - 1:0] rdata, output reg [1:0] rresp, output reg rlast, output reg rvalid, input rready,
  input [ADDRESS_BITS - 1:0] awaddr, input [7:0] awlen, input awvalid, output awready,
  input [8 * LANES - 1:0] wdata, input [LANES - 1:0] wstrb, input wlast, input wvalid, output wready,
  output reg [1:0] bresp, output reg bvalid, input bready
);
  localparam SHIFT = $clog2(LANES);
  localparam DEPTH = 32;

  reg [8 * LANES - 1:0] words [0:WORDS - 1];
  reg [8 * 4096 - 1:0] path;
  initial if ($value$plusargs("external=%s", path)) $readmemh(path, words);
  assign peeked = words[peek];

  // chance: a shift register that moves on every cycle
  reg [31:0] noise;
  wire [4:0] held = {noise[31:24] < stall, noise[26:19] < stall, noise[22:15] < stall, noise[17:10] < stall, noise[12:5] < stall};

  reg [31:0] moved;
  wire stuck = fault == 3 && moved >= fault_at;

  // bandwidth: each word costs `cycles` of a credit that grows by `beats` per cycle
  reg [16:0] credit;
  wire funded = credit >= cycles;

  // reads: addresses wait with the time at which their first word may come
  reg [31:0] now;
  reg [ADDRESS_BITS - 1:0] read_address [0:DEPTH - 1];
  reg [7:0] read_length [0:DEPTH - 1];
  reg [31:0] read_time [0:DEPTH - 1];
  reg [5:0] read_head, read_tail;
  reg [7:0] read_word;
  wire [5:0] read_level = read_tail - read_head;
  wire [4:0] head = read_head[4:0];
  wire [31:0] age = now - read_time[head];
  assign arready = !stuck && !held[0] && read_level < DEPTH - 1;
  wire read_next = !stuck && !held[1] && read_level != 0 && !age[31] && funded && (!rvalid || rready);

  // writes: one burst at a time
  reg writing, written;
  reg [ADDRESS_BITS - 1:0] write_address;
  reg [31:0] write_time;
  wire [31:0] write_age = now - write_time;
  assign awready = !stuck && !held[2] && !writing && !written;
  assign wready = !stuck && !held[3] && writing && funded && !read_next;
  integer lane;

  always @(posedge clk) begin
    now <= now + 1;
    noise <= {noise[30:0], noise[31] ^ noise[21] ^ noise[1] ^ noise[0]};
    credit <= (credit + beats > 4 * cycles ? 4 * cycles : credit + beats) - (read_next || (wready && wvalid) ? cycles : 0);
    moved <= moved + ((rvalid && rready) || (wready && wvalid));
    if (arvalid && arready) begin
      read_address[read_tail[4:0]] <= araddr >> SHIFT;
      read_length[read_tail[4:0]] <= arlen;
      read_time[read_tail[4:0]] <= now + latency;
      read_tail <= read_tail + 1;
    end
    if (rready) rvalid <= 0;
    if (read_next) begin
      rvalid <= 1;
      rdata <= words[read_address[head] + read_word];
      rresp <= fault == 1 && moved >= fault_at ? 2 : 0;
      rlast <= read_word == read_length[head];
      read_word <= read_word == read_length[head] ? 0 : read_word + 1;
      if (read_word == read_length[head]) read_head <= read_head + 1;
    end
    if (awvalid && awready) begin
      writing <= 1;
      write_address <= awaddr >> SHIFT;
    end
    if (wvalid && wready) begin
      for (lane = 0; lane < LANES; lane = lane + 1)
        if (wstrb[lane]) words[write_address][8 * lane +: 8] <= wdata[8 * lane +: 8];
      write_address <= write_address + 1;
      if (wlast) begin
        writing <= 0;
        written <= 1;
        write_time <= now + latency;
      end
    end
    if (bready) bvalid <= 0;
    if (written && !write_age[31] && !bvalid && !held[4] && !stuck) begin
      written <= 0;
      bvalid <= 1;
      bresp <= fault == 2 && moved >= fault_at ? 2 : 0;
    end
    if (rst) begin
      now <= 0; noise <= 32'h2545f491; credit <= 0; moved <= 0;
      read_head <= 0; read_tail <= 0; read_word <= 0; rvalid <= 0;
      writing <= 0; written <= 0; bvalid <= 0;
    end
  end
endmodule
