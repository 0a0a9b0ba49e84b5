# Writes OUTPUT, a C++ file with the text of TABLE and a fingerprint of SOURCES (a list joined by
# "|"):   cmake -DTABLE=... -DSOURCES=... -DOUTPUT=... -P embed.cmake
file(READ ${TABLE} table)
string(REPLACE "|" ";" SOURCES "${SOURCES}")
set(all "")
foreach(source ${SOURCES})
  file(SHA256 ${source} hash)
  string(APPEND all ${hash})
endforeach()
string(SHA256 fingerprint "${all}")
string(SUBSTRING ${fingerprint} 0 12 fingerprint)
file(WRITE ${OUTPUT} "#include \"dualfp/kernels/cuda/sm90/embedded.h\"

namespace dualfp::sm90::embedded {

const std::string_view kTunedTable = R\"table(${table})table\";
const std::string_view kKernelFingerprint = \"${fingerprint}\";

}  // namespace dualfp::sm90::embedded
")
