# Writes OUTPUT, a C++ file that defines dualfp::FUNCTION(): the file SOURCE, with the parts that it
# names in comments (/* page.css */) put in from its folder, and ${version} replaced by VERSION.
get_filename_component(folder ${SOURCE} DIRECTORY)
file(READ ${SOURCE} content)
string(REPLACE "\${version}" "${VERSION}" content "${content}")
foreach(part page.css page.js chat.js docs.css docs.js)
  if(content MATCHES "/\\* ${part} \\*/\n")
    file(READ ${folder}/${part} text)
    string(REPLACE "/* ${part} */\n" "${text}" content "${content}")
  endif()
endforeach()
string(FIND "${content}" ")~~\"" clash)
if(NOT clash EQUAL -1)
  message(FATAL_ERROR "${SOURCE} contains the end of a raw string")
endif()
# Compilers limit the length of one literal; adjacent ones are joined.
string(LENGTH "${content}" length)
set(pieces "")
set(position 0)
while(position LESS length)
  string(SUBSTRING "${content}" ${position} 8000 piece)
  string(APPEND pieces "      R\"~~(${piece})~~\"\n")
  math(EXPR position "${position} + 8000")
endwhile()
file(WRITE ${OUTPUT} "#include \"dualfp/server/web/web_page.h\"

namespace dualfp {

std::string_view ${FUNCTION}() {
  static constexpr char kText[] =
${pieces}      ;
  return {kText, sizeof(kText) - 1};
}

}  // namespace dualfp
")
