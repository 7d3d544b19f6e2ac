# tests/readme/shows_the_examples.cmake - the code in README and CONTRIBUTING is the code of the example programs, word for word.
# SPDX-License-Identifier: MIT
file(READ ${ROOT}/README.md readme)
file(READ ${ROOT}/CONTRIBUTING.md contributing)

# expect_shown(<file> <first text> [<text>]): the README, or another text, holds <file> from the first occurrence of <first text> to its end.
function(expect_shown file first)
  set(where README.md)
  if(ARGC GREATER 2)
    set(readme "${contributing}")
    set(where CONTRIBUTING.md)
  endif()
  file(READ ${ROOT}/${file} source)
  string(FIND "${source}" "${first}" begin)
  if(begin EQUAL -1)
    message(FATAL_ERROR "${file} has no \"${first}\"")
  endif()
  string(SUBSTRING "${source}" ${begin} -1 shown)
  string(FIND "${readme}" "${shown}```" found)
  if(found EQUAL -1)
    message(FATAL_ERROR "${where} does not show ${file} as it is, from \"${first}\" on")
  endif()
endfunction()

expect_shown(examples/quickstart.cpp "int main()")
expect_shown(examples/save_load.cpp "int main()")
expect_shown(examples/own_policy.cpp "/// Keeps the newest rows")
expect_shown(examples/own_retrieval.cpp "/// Every row stays" contributing)
