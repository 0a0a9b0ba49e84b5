# Writes OUTPUT, a C++ file with the text of TABLE and a fingerprint of SOURCES (a list joined by
# "|"):   cmake -DTABLE=... -DSOURCES=... -DOUTPUT=... -P embed.cmake
# Where a source lies, and so our own includes, tells nothing of the code: neither counts.
file(READ ${TABLE} table)
string(REPLACE "|" ";" SOURCES "${SOURCES}")
set(hashes)
foreach(source ${SOURCES})
  file(READ ${source} text)
  string(REGEX REPLACE "#include \"dualfp/[^\n]*\n" "" text "${text}")
  string(SHA256 hash "${text}")
  list(APPEND hashes ${hash})
endforeach()
list(SORT hashes)
string(SHA256 fingerprint "${hashes}")
string(SUBSTRING ${fingerprint} 0 12 fingerprint)
file(WRITE ${OUTPUT} "#include \"dualfp/kernels/cuda/sm90/select/embedded.h\"

namespace dualfp::sm90::embedded {

const std::string_view kTunedTable = R\"table(${table})table\";
const std::string_view kKernelFingerprint = \"${fingerprint}\";

}  // namespace dualfp::sm90::embedded
")
