# tests/readme/ci_runs_its_second_command.cmake - .ci/run and the README hold the same command, word for word.
# SPDX-License-Identifier: MIT
file(READ ${ROOT}/.ci/run script)
file(READ ${ROOT}/README.md readme)

string(FIND "${script}" "$(command -v sudo)" begin)
if(begin EQUAL -1)
  message(FATAL_ERROR ".ci/run does not install what it needs")
endif()
string(SUBSTRING "${script}" ${begin} -1 command)
string(FIND "${readme}" "```sh\n${command}```" found)
if(found EQUAL -1)
  message(FATAL_ERROR "README.md has no such command:\n${command}")
endif()
