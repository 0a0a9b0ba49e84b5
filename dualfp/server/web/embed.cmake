# Writes OUTPUT, a C++ file that defines dualfp::WebPage(): FOLDER/page.html with page.css and
# page.js put in where it names them.
file(READ ${FOLDER}/page.html content)
foreach(part page.css page.js)
  file(READ ${FOLDER}/${part} text)
  string(REPLACE "/* ${part} */\n" "${text}" content "${content}")
endforeach()
string(FIND "${content}" ")~~\"" clash)
if(NOT clash EQUAL -1)
  message(FATAL_ERROR "the page contains the end of a raw string")
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

std::string_view WebPage() {
  static constexpr char kPage[] =
${pieces}      ;
  return {kPage, sizeof(kPage) - 1};
}

}  // namespace dualfp
")
