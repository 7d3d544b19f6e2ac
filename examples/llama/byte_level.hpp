// examples/llama/byte_level.hpp - GPT-2's conventions: cutting text into words, writing bytes as characters.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "merge.hpp"

namespace llama {

inline void append_utf8(std::string& text, std::uint32_t code) {
  const auto byte = [&](std::uint32_t value) { text.push_back(static_cast<char>(value)); };
  if (code < 0x80) {
    byte(code);
  } else if (code < 0x800) {
    byte(0xC0U | code >> 6U);
    byte(0x80U | (code & 0x3FU));
  } else {
    byte(0xE0U | code >> 12U);
    byte(0x80U | (code >> 6U & 0x3FU));
    byte(0x80U | (code & 0x3FU));
  }
}

/// The printable character that stands for each byte in a byte-level vocabulary: itself where it is printable
/// Latin-1, else one of U+0100 and following, in order.
inline std::array<std::string, 256> byte_characters() {
  std::array<std::string, 256> characters;
  std::uint32_t next = 0x100;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    append_utf8(characters[byte], printable ? byte : next++);
  }
  return characters;
}

/// How a byte-level vocabulary cuts text before merging (the pattern behind tokenizer.ggml.pre).
enum class WordRule {
  gpt2,    // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  smollm,  // the same after every digit was cut out by itself
  qwen2,   // as llama3, and every digit stands alone
  llama3,  // (?i:'s|...)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
           // ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
};

/// Cuts text by the rule. Letters, digits and spaces are exact for ASCII; beyond it the common blocks of
/// spaces, punctuation and symbols are told apart and everything else counts as a letter.
class WordCutter {
 public:
  WordCutter(std::string_view text, WordRule rule) : text_(text), rule_(rule) {
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t bytes = character_bytes(text.substr(at));
      characters_.push_back({at, kind_of(text.substr(at, bytes))});
      at += bytes;
    }
    characters_.push_back({text.size(), Kind::end});
  }

  std::vector<std::string_view> words() const {
    std::vector<std::string_view> result;
    for (std::size_t i = 0; kind(i) != Kind::end;) {
      const std::size_t next = i + std::max<std::size_t>(1, word(i));
      result.push_back(text_.substr(start(i), start(next) - start(i)));
      i = next;
    }
    return result;
  }

 private:
  enum class Kind { letter, digit, space, line_end, other, end };
  struct Character {
    std::size_t start;
    Kind kind;
  };

  static Kind kind_of(std::string_view character) {
    const auto lead = static_cast<unsigned char>(character.front());
    if (lead < 0x80) {
      if ((lead | 0x20U) >= 'a' && (lead | 0x20U) <= 'z') { return Kind::letter; }
      if (lead >= '0' && lead <= '9') { return Kind::digit; }
      if (lead == '\r' || lead == '\n') { return Kind::line_end; }
      return lead == ' ' || (lead >= '\t' && lead <= '\r') ? Kind::space : Kind::other;
    }
    std::uint32_t code = lead & (0xFFU >> (character.size() + 1));
    for (const char next : character.substr(1)) { code = code << 6U | (static_cast<unsigned char>(next) & 0x3FU); }
    const auto within = [code](std::uint32_t first, std::uint32_t last) { return code >= first && code <= last; };
    if (code == 0x85 || code == 0xA0 || within(0x2000, 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
        code == 0x3000) {
      return Kind::space;
    }
    const bool latin_letter = code == 0xAA || code == 0xB5 || code == 0xBA;
    const bool latin_digit = code == 0xB2 || code == 0xB3 || code == 0xB9 || within(0xBC, 0xBE);
    if (latin_digit || within(0x2070, 0x2079) || within(0x2080, 0x2089) || within(0x2150, 0x2189)) { return Kind::digit; }
    const bool symbol = (within(0x80, 0xBF) && !latin_letter) || code == 0xD7 || code == 0xF7 || within(0x2010, 0x206F) ||
                        within(0x20A0, 0x20CF) || within(0x2190, 0x2BFF) || within(0x3001, 0x3003) || within(0x3008, 0x3020) ||
                        within(0xFE00, 0xFE0F) || within(0xFF01, 0xFF0F) || within(0xFF1A, 0xFF20) || within(0x1F000, 0x1FAFF);
    return symbol ? Kind::other : Kind::letter;
  }

  [[nodiscard]] bool like_llama3() const { return rule_ == WordRule::llama3 || rule_ == WordRule::qwen2; }
  [[nodiscard]] Kind kind(std::size_t i) const { return characters_[std::min(i, characters_.size() - 1)].kind; }
  [[nodiscard]] std::size_t start(std::size_t i) const { return characters_[std::min(i, characters_.size() - 1)].start; }
  [[nodiscard]] char ascii(std::size_t i) const { return kind(i) == Kind::end ? '\0' : text_[start(i)]; }
  [[nodiscard]] bool is_space(std::size_t i) const { return kind(i) == Kind::space || kind(i) == Kind::line_end; }
  [[nodiscard]] std::size_t run(std::size_t i, Kind wanted) const {
    std::size_t length = 0;
    while (kind(i + length) == wanted) { ++length; }
    return length;
  }

  /// Characters of the word that starts at character i: the alternatives of the pattern, in its order.
  [[nodiscard]] std::size_t word(std::size_t i) const {
    const bool llama3 = like_llama3();
    if (const std::size_t length = contraction(i); length > 0) { return length; }
    const std::size_t blank = ascii(i) == ' ' ? 1 : 0;
    const bool glue = llama3 ? kind(i) == Kind::space || kind(i) == Kind::other : blank == 1;
    if (const std::size_t lead = glue ? 1 : 0; kind(i + lead) == Kind::letter) { return lead + run(i + lead, Kind::letter); }
    if (kind(i) == Kind::digit && rule_ != WordRule::gpt2) {
      return std::min<std::size_t>(run(i, Kind::digit), rule_ == WordRule::llama3 ? 3 : 1);
    }
    if (kind(i + blank) == Kind::digit && rule_ == WordRule::gpt2) { return blank + run(i + blank, Kind::digit); }
    if (kind(i + blank) == Kind::other) {
      const std::size_t length = blank + run(i + blank, Kind::other);
      return llama3 ? length + run(i + length, Kind::line_end) : length;
    }
    return spaces(i);
  }

  [[nodiscard]] std::size_t contraction(std::size_t i) const {
    if (ascii(i) != '\'') { return 0; }
    const auto lower = [&](std::size_t at) {
      const char c = ascii(at);
      return like_llama3() && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    };
    const char first = lower(i + 1);
    const char second = lower(i + 2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') { return 2; }
    const bool two = (first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l');
    return two ? 3 : 0;
  }

  [[nodiscard]] std::size_t spaces(std::size_t i) const {
    std::size_t length = 0;
    std::size_t line_end = 0;  // past the last line end of the run
    while (is_space(i + length)) {
      ++length;
      if (kind(i + length - 1) == Kind::line_end) { line_end = length; }
    }
    if (like_llama3() && line_end > 0) { return line_end; }
    // \s+(?!\S) leaves the last space to the word that follows; a digit of smollm is a cut of its own and
    // takes none.
    const bool keeps_all = kind(i + length) == Kind::end || (rule_ == WordRule::smollm && kind(i + length) == Kind::digit);
    return keeps_all || length <= 1 ? length : length - 1;
  }

  std::string_view text_;
  WordRule rule_;
  std::vector<Character> characters_;
};

}  // namespace llama
