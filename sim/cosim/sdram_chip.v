// An SDRAM chip, for simulation: what it does, and a stop at the first command that breaks a rule. Times are in cycles of its clock.
// The file that `+sdram=FILE` names ($readmemh, a column in each line) is its contents at the start.
//
// command  RAS, CAS and WE from the lowest bit up, 1 where the pin is active
// drive    the pins of data are driven from outside; data that the chip does not drive are noise
module sdram_chip #(
  parameter integer BANK_BITS = 2, parameter integer ROW_BITS = 13, parameter integer COLUMN_BITS = 9, parameter integer DATA_BYTES = 2,
  parameter integer CAS_LATENCY = 2, parameter integer POWER_UP = 10, parameter integer RCD = 1, parameter integer RP = 1, parameter integer RAS = 1,
  parameter integer RC = 1, parameter integer RFC = 1, parameter integer WR = 1, parameter integer MRD = 2, parameter integer REFRESH = 100
) (
  input clk, input [2:0] command, input [BANK_BITS - 1:0] bank, input [ROW_BITS - 1:0] address,
  input [DATA_BYTES - 1:0] mask, input drive, input [8 * DATA_BYTES - 1:0] written, output [8 * DATA_BYTES - 1:0] read
);
  localparam BANKS = 1 << BANK_BITS;
  localparam LONG_AGO = -1000000;
  reg [8 * DATA_BYTES - 1:0] columns [0:(1 << BANK_BITS + ROW_BITS + COLUMN_BITS) - 1];
  reg [8 * 4096 - 1:0] path;
  integer now = 0, initial_refreshes = 0, refreshed = LONG_AGO, mode_set = LONG_AGO, moded = 0, number, closed_all = 0;
  integer activated [0:BANKS - 1], closed [0:BANKS - 1], wrote [0:BANKS - 1];
  reg [BANKS - 1:0] opened = 0;
  reg [ROW_BITS - 1:0] rows [0:BANKS - 1];
  initial begin
    if ($value$plusargs("sdram=%s", path)) $readmemh(path, columns);
    for (number = 0; number < BANKS; number = number + 1) begin
      activated[number] = LONG_AGO; closed[number] = LONG_AGO; wrote[number] = LONG_AGO;
    end
  end

  // data leave CAS_LATENCY - 1 edges after the read's, and stay to the next one
  reg [8 * DATA_BYTES - 1:0] leaving [0:3];
  reg [3:0] valid = 0;
  reg [31:0] noise = 32'h2545f491;
  assign read = valid[CAS_LATENCY - 1] ? leaving[CAS_LATENCY - 1] : noise;

  wire [BANK_BITS + ROW_BITS + COLUMN_BITS - 1:0] place = {rows[bank], bank, address[COLUMN_BITS - 1:0]};
  integer lane;

  task check(input good, input [8 * 48 - 1:0] rule);
    if (!good) $fatal(1, "sdram, cycle %0d, command %0d, bank %0d: %0s", now, command, bank, rule);
  endtask

  always @(posedge clk) begin
    now <= now + 1;
    noise <= {noise[30:0], noise[31] ^ noise[21] ^ noise[1] ^ noise[0]};
    for (number = 3; number > 0; number = number - 1) leaving[number] <= leaving[number - 1];
    valid <= {valid[2:0], command == 2};
    if (command != 0) begin
      check(now >= POWER_UP, "a command before power-up is over");
      check(now >= refreshed + RFC, "tRFC");
      check(now >= mode_set + MRD, "tMRD");
    end
    if (moded) check(now - refreshed <= REFRESH, "no refresh in time");
    if (drive) check(command == 6 && !valid[CAS_LATENCY - 1] && !valid[CAS_LATENCY - 2], "data driven from both sides");
    case (command)
      0: ;
      1: begin
        check(moded != 0, "no mode set");
        check(!opened[bank], "the bank is open");
        check(now >= closed[bank] + RP, "tRP");
        check(now >= activated[bank] + RC, "tRC");
        opened[bank] <= 1; rows[bank] <= address; activated[bank] <= now;
      end
      2, 6: begin
        check(opened[bank], "the bank is closed");
        check(now >= activated[bank] + RCD, "tRCD");
        check(!address[10], "auto-precharge");
        if (command == 2) begin
          check(mask == 0, "a masked read");
          leaving[0] <= columns[place];
        end else begin
          check(drive, "a write without data");
          wrote[bank] <= now;
          for (lane = 0; lane < DATA_BYTES; lane = lane + 1)
            if (!mask[lane]) columns[place][8 * lane +: 8] <= written[8 * lane +: 8];
        end
      end
      5: for (number = 0; number < BANKS; number = number + 1)
        if (address[10] || number == bank) begin
          check(!opened[number] || now >= activated[number] + RAS, "tRAS");
          check(now >= wrote[number] + WR, "tWR");
          opened[number] <= 0;
          if (opened[number] || !closed_all) closed[number] <= now;
          closed_all <= closed_all || address[10];
        end
      3: begin
        check(closed_all != 0, "a refresh before the first precharge");
        check(opened == 0, "a refresh with a row open");
        for (number = 0; number < BANKS; number = number + 1) begin
          check(now >= closed[number] + RP, "tRP");
          check(now >= activated[number] + RC, "tRC");
        end
        refreshed <= now;
        initial_refreshes <= initial_refreshes + 1;
      end
      7: begin
        check(opened == 0 && closed_all != 0 && initial_refreshes >= 8, "the mode before precharge and refreshes");
        for (number = 0; number < BANKS; number = number + 1) check(now >= closed[number] + RP, "tRP");
        check(bank == 0 && address == CAS_LATENCY << 4, "another mode than bursts of one column");
        mode_set <= now; moded <= 1;
      end
      default: check(0, "an unknown command");
    endcase
  end
endmodule
