# Vitis HLS 2022.2 or later: C simulation, synthesis, co-simulation and export of both tops.
#   vitis_hls -f run_hls.tcl                              2022.2 to 2024.1
#   vitis-run --mode hls --tcl run_hls.tcl                2024.2 and later
# Environment: HWATTN_PART, HWATTN_PERIOD (ns), HWATTN_TOPS (machine, attention; default: all), HWATTN_STEPS ("csim csynth cosim export"),
# HWATTN_COSIM (images or cases of the co-simulation).
proc setting {name default} {
    global env
    return [expr {[info exists env($name)] ? $env($name) : $default}]
}

set here [file dirname [file normalize [info script]]]
set part [setting HWATTN_PART xczu9eg-ffvb1156-2-e]
set period [setting HWATTN_PERIOD 3.33]
set found {}
foreach source [lsort [glob -directory $here/src *.cpp]] { lappend found [file rootname [file tail $source]] }
set tops [setting HWATTN_TOPS $found]
set steps [setting HWATTN_STEPS "csim csynth cosim export"]
set cosim_cases [setting HWATTN_COSIM 1]
set flags "-std=c++14 -I$here/include -I$here/generated -I$here/src"

foreach top $tops {
    open_project -reset vitis_$top
    set_top hwattn_$top
    add_files $here/src/$top.cpp -cflags $flags
    add_files -tb $here/tb/${top}_tb.cpp -cflags "$flags -I$here/tb -Wno-unknown-pragmas"
    open_solution -reset solution -flow_target vivado
    set_part $part
    create_clock -period $period -name default
    foreach step $steps {
        switch $step {
            csim { csim_design -argv "$here/data" }
            csynth { csynth_design }
            cosim { cosim_design -argv "$here/data $cosim_cases" }
            export { export_design -format ip_catalog -display_name hwattn_$top }
            default { error "HWATTN_STEPS: no step $step" }
        }
    }
    close_project
}
exit
