// A DDR3 chip without its DLL, for simulation: what it does, and a stop at the first command that breaks a rule. Times are in its cycles.
// The file that `+sdram=FILE` names ($readmemh, a burst in each line) is its contents at the start.
//
// command           RAS, CAS and WE from the lowest bit up, 1 where the pin is active
// drive, written    the pins of data are driven from outside, with two transfers; strobe: those of the data strobes are
// read              the pins of data at STEPS moments of the last cycle; what the chip does not drive, or changes at that moment, is noise
// DELAY             from the clock's edge to read data, there and back, in 64ths of a cycle (`+delay=N` sets another one); at 4 of them before
//                   and after each change there is noise
module ddr3_chip #(
  parameter integer BANK_BITS = 3, parameter integer ROW_BITS = 13, parameter integer COLUMN_BITS = 7, parameter integer PIN_BYTES = 2,
  parameter integer STEPS = 8, parameter integer LATENCY = 6, parameter integer DELAY = 16, parameter integer RESET = 10,
  parameter integer CLOCK = 10, parameter integer XPR = 5, parameter integer MRD = 4, parameter integer MOD = 12, parameter integer ZQ = 512,
  parameter integer RCD = 1, parameter integer RP = 1, parameter integer RAS = 1, parameter integer RC = 1, parameter integer RFC = 1,
  parameter integer WR = 1, parameter integer RRD = 4, parameter integer FAW = 4, parameter integer RTP = 4, parameter integer WTR = 4,
  parameter integer REFRESH = 100
) (
  input clk, input released, input enabled, input [2:0] command, input [BANK_BITS - 1:0] bank, input [ROW_BITS - 1:0] address,
  input [2 * PIN_BYTES - 1:0] mask, input drive, input strobe, input [16 * PIN_BYTES - 1:0] written,
  output reg [8 * PIN_BYTES * STEPS - 1:0] read
);
  localparam BANKS = 1 << BANK_BITS;
  localparam BITS = 8 * PIN_BYTES;
  localparam LONG_AGO = -1000000;
  localparam HISTORY = 64;
  reg [8 * BITS - 1:0] bursts [0:(1 << BANK_BITS + ROW_BITS + COLUMN_BITS) - 1];
  reg [8 * 4096 - 1:0] path;
  integer now = 0, resets = 0, freed = 0, clocked = LONG_AGO, mode_set = LONG_AGO, mode_wait = 0, calibrated = LONG_AGO, ready = 0;
  integer refreshed = LONG_AGO, number, lane, moment, time64, place64, cycle, age, half;
  integer delay = DELAY;
  integer activated [0:BANKS - 1], closed [0:BANKS - 1], wrote [0:BANKS - 1], was_read [0:BANKS - 1];
  integer recent [0:3];
  integer any_write = LONG_AGO, any_read = LONG_AGO;
  reg [BANKS - 1:0] opened = 0;
  reg [3:0] modes = 0;
  reg [ROW_BITS - 1:0] rows [0:BANKS - 1];
  // by the cycle of its command: a burst that is read, and the place of one that is written
  reg [8 * BITS - 1:0] reading [0:HISTORY - 1];
  reg [HISTORY - 1:0] is_read = 0, is_write = 0;
  reg [BANK_BITS + ROW_BITS + COLUMN_BITS - 1:0] writing [0:HISTORY - 1];
  reg strobed = 0, driven = 0;
  reg [31:0] noise = 32'h2545f491;
  initial begin
    if ($value$plusargs("sdram=%s", path)) $readmemh(path, bursts);
    if ($value$plusargs("delay=%d", delay)) ;
    for (number = 0; number < BANKS; number = number + 1) begin
      activated[number] = LONG_AGO; closed[number] = LONG_AGO; wrote[number] = LONG_AGO; was_read[number] = LONG_AGO;
    end
    for (number = 0; number < 4; number = number + 1) recent[number] = LONG_AGO;
  end

  wire [BANK_BITS + ROW_BITS + COLUMN_BITS - 1:0] place = {rows[bank], bank, address[COLUMN_BITS + 2:3]};

  task check(input good, input [8 * 48 - 1:0] rule);
    if (!good) $fatal(1, "ddr3, cycle %0d, command %0d, bank %0d: %0s", now, command, bank, rule);
  endtask

  always @(posedge clk) begin
    now <= now + 1;
    if (!released) begin
      resets <= resets + 1;
      check(!enabled && freed == 0, "a reset after power-up");
    end else if (freed == 0) begin
      check(resets >= RESET, "the reset was too short");
      freed <= now;
    end
    if (enabled && clocked == LONG_AGO) begin
      check(freed != 0 && now >= freed + CLOCK, "the clock was enabled too early");
      clocked <= now;
    end
    check(enabled || clocked == LONG_AGO, "the clock is disabled");
    if (command != 0) begin
      check(enabled && now >= clocked + XPR, "tXPR");
      check(now >= refreshed + RFC, "tRFC");
      check(now >= mode_set + (command == 7 ? MRD : MOD), "tMRD or tMOD");
      check(now >= calibrated + ZQ, "tZQinit");
    end
    if (ready != 0) check(now - (refreshed > ready ? refreshed : ready) <= REFRESH, "no refresh in time");

    // what the pins were in the last cycle, moment by moment
    for (moment = 0; moment < STEPS; moment = moment + 1) begin
      noise = {noise[30:0], noise[31] ^ noise[21] ^ noise[1] ^ noise[0]};
      read[moment * BITS +: BITS] <= noise[BITS - 1:0];
      time64 = 64 * now + 64 / STEPS * moment - 64 * (LATENCY - 1) - delay;
      cycle = time64 / 64;
      half = time64 % 64 / 32;
      place64 = time64 % 32;
      if (time64 > 64 * HISTORY && place64 >= 4 && place64 < 28)
        for (age = 0; age < 4; age = age + 1)
          if (is_read[(cycle - age) % HISTORY]) read[moment * BITS +: BITS] <= reading[(cycle - age) % HISTORY][(2 * age + half) * BITS +: BITS];
    end

    // data of a WRITE come two in a cycle, LATENCY cycles after it; the strobes are driven from one cycle before to one after
    half = 0;
    for (age = 0; age < 4; age = age + 1)
      if (now >= HISTORY && is_write[(now - LATENCY - age) % HISTORY]) begin
        half = 1;
        check(drive && strobe && (strobed || driven), "a write without data or strobe");
        for (lane = 0; lane < 2 * PIN_BYTES; lane = lane + 1)
          if (!mask[lane]) bursts[writing[(now - LATENCY - age) % HISTORY]][16 * PIN_BYTES * age + 8 * lane +: 8] <= written[8 * lane +: 8];
      end
    check(drive == (half != 0), "data that nobody waits for");
    check(strobe || !driven, "a strobe that ends with its data");
    check(!(drive || strobe) || now >= any_read + LATENCY + 4 + delay / 64, "data driven from both sides");
    strobed <= strobe; driven <= drive;

    is_read[now % HISTORY] <= command == 2;
    is_write[now % HISTORY] <= command == 6;
    case (command)
      0: ;
      1: begin
        check(ready != 0, "a row before power-up is over");
        check(!opened[bank], "the bank is open");
        check(now >= closed[bank] + RP, "tRP");
        check(now >= activated[bank] + RC, "tRC");
        check(now >= recent[0] + RRD, "tRRD");
        check(now >= recent[3] + FAW, "tFAW");
        for (number = 3; number > 0; number = number - 1) recent[number] <= recent[number - 1];
        recent[0] <= now;
        opened[bank] <= 1; rows[bank] <= address; activated[bank] <= now;
      end
      2, 6: begin
        check(opened[bank], "the bank is closed");
        check(now >= activated[bank] + RCD, "tRCD");
        check(!address[10] && address[2:0] == 0, "auto-precharge, or a burst from its middle");
        check(now >= any_read + 4 && now >= any_write + 4, "tCCD");
        if (command == 2) begin
          check(now >= any_write + LATENCY + 4 + WTR, "tWTR");
          reading[now % HISTORY] <= bursts[place];
          was_read[bank] <= now; any_read <= now;
        end else begin
          check(now >= any_read + 6, "a write too early after a read");
          writing[now % HISTORY] <= place;
          wrote[bank] <= now; any_write <= now;
        end
      end
      4: begin
        check(modes == 15 && opened == 0 && address[10], "the calibration before the modes");
        calibrated <= now; ready <= now + ZQ;
      end
      5: for (number = 0; number < BANKS; number = number + 1)
        if (address[10] || number == bank) begin
          check(!opened[number] || now >= activated[number] + RAS, "tRAS");
          check(now >= wrote[number] + LATENCY + 4 + WR, "tWR");
          check(now >= was_read[number] + RTP, "tRTP");
          opened[number] <= 0;
          if (opened[number]) closed[number] <= now;
        end
      3: begin
        check(ready != 0 && opened == 0, "a refresh with a row open");
        for (number = 0; number < BANKS; number = number + 1) check(now >= closed[number] + RP, "tRP");
        refreshed <= now;
      end
      7: begin
        check(ready == 0 && opened == 0, "a mode after power-up");
        case (bank)
          2: check(modes == 0 && address == 'h8, "MR2: another latency of writes than 6");
          3: check(modes == 4'b0100 && address == 0, "MR3 before MR2, or not 0");
          1: check(modes == 4'b1100 && address == 1, "MR1 before MR3, or the DLL is on");
          0: check(modes == 4'b1110 && address == 'h220, "MR0 before MR1, or not bursts of eight with a latency of 6");
          default: check(0, "an unknown mode register");
        endcase
        modes[bank[1:0]] <= 1;
        mode_set <= now;
      end
    endcase
  end
endmodule
