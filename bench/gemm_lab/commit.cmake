# Writes OUTPUT, which defines Commit(), and leaves an up-to-date file alone:
#   cmake -DSOURCE=... -DOUTPUT=... -P commit.cmake
execute_process(COMMAND git describe --always --dirty --exclude=*
  WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE commit ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT commit)
  set(commit unknown)
endif()
file(CONFIGURE OUTPUT ${OUTPUT} @ONLY CONTENT "#include \"bench/gemm_lab/commit.h\"

namespace dualfp {

std::string_view Commit() { return \"@commit@\"; }

}  // namespace dualfp
")
