// examples/llama/vocabulary.hpp - text to tokens and back, for the two tokenisers that Llama files carry.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "byte_level.hpp"
#include "error.hpp"
#include "gguf.hpp"
#include "merge.hpp"

namespace llama {

using Token = std::uint32_t;

/// The vocabulary of a GGUF file: `tokenizer.ggml.model` "llama" (SentencePiece BPE with scores and byte
/// fallback) or "gpt2" (byte-level BPE with a list of merges). Marks such as "<s>" inside a text are text, unless the file calls them
/// user-defined: those tokens are cut out of a text before anything else.
class Vocabulary {
 public:
  explicit Vocabulary(const Gguf& gguf);

  [[nodiscard]] std::size_t size() const noexcept { return texts_.size(); }
  [[nodiscard]] std::optional<Token> bos() const noexcept { return bos_; }
  [[nodiscard]] std::optional<Token> eos() const noexcept { return eos_; }
  /// Whether the model expects the begin-of-sequence token in front.
  [[nodiscard]] bool adds_bos() const noexcept { return adds_bos_; }

  /// The tokens of a text, with the begin-of-sequence token in front when `with_bos` and the model expects
  /// one.
  [[nodiscard]] std::vector<Token> encode(std::string_view text, bool with_bos = true) const;
  /// The bytes of one token, for streaming: a space where a word begins, nothing for control tokens.
  [[nodiscard]] std::string piece(Token token) const;
  /// The text of tokens that begin a text; decode(encode(text)) == text.
  [[nodiscard]] std::string decode(std::span<const Token> tokens) const;

 private:
  enum class Kind : std::uint8_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>{}(text); }
  };
  template <class T>
  using TextMap = std::unordered_map<std::string, T, Hash, std::equal_to<>>;

  void load_tokens(const Gguf& gguf);
  void load_kinds(const Gguf& gguf);
  void find_byte_tokens(const Gguf& gguf);
  void find_user_defined();
  void load_scores(const Gguf& gguf);
  void load_merges(const Gguf& gguf);
  void load_rule(const Gguf& gguf);
  [[nodiscard]] std::optional<Token> special(const Gguf& gguf, std::string_view key, std::optional<Token> other) const;
  [[nodiscard]] std::optional<Token> find(std::string_view text) const {
    const auto found = tokens_.find(text);
    return found == tokens_.end() ? std::nullopt : std::optional(found->second);
  }
  /// A stretch of text, or the user-defined token that stands there.
  struct Stretch {
    std::string_view text;
    std::optional<Token> token;
  };
  [[nodiscard]] std::vector<Stretch> cut(std::string_view text) const;
  void encode_sentence_piece(std::string_view text, std::vector<Token>& out) const;
  void encode_byte_level(std::string_view text, std::vector<Token>& out) const;

  static constexpr std::string_view space_mark = "\xE2\x96\x81";  // U+2581, a space in SentencePiece's texts

  bool byte_level_ = false;
  bool adds_bos_ = true;
  bool adds_space_ = true;          // SentencePiece: a text starts as if after a space
  bool whole_words_first_ = false;  // byte level: a word that is a token is that token
  WordRule rule_ = WordRule::gpt2;
  std::optional<Token> bos_, eos_, unknown_;
  std::vector<std::string> texts_;                     // (vocabulary) as in the file
  std::vector<Kind> kinds_;                            // (vocabulary)
  std::vector<double> scores_;                         // (vocabulary), SentencePiece only
  TextMap<Token> tokens_;                              // what merging may produce: normal, user-defined and unused tokens
  std::vector<Token> user_defined_;                    // longest text first
  TextMap<double> merges_;                             // "left right" to priority, byte level only
  std::array<std::optional<Token>, 256> byte_tokens_;  // SentencePiece: <0x00> ... <0xFF>
  std::array<std::string, 256> byte_characters_ = byte_characters();
  TextMap<char> character_bytes_;  // the inverse
};

inline Vocabulary::Vocabulary(const Gguf& gguf) {
  const std::string_view model = gguf.text("tokenizer.ggml.model");
  if (model != "llama" && model != "gpt2") {
    fail("{}: has a tokeniser of model {}; this engine has \"llama\" and \"gpt2\".", gguf.file(), in_quotes(model));
  }
  byte_level_ = model == "gpt2";
  if (byte_level_) { load_rule(gguf); }
  load_tokens(gguf);
  adds_space_ = !byte_level_ && gguf.flag_or("tokenizer.ggml.add_space_prefix", true);
  const bool wants_bos = gguf.flag_or("tokenizer.ggml.add_bos_token", !byte_level_ || rule_ == WordRule::llama3);
  adds_bos_ = wants_bos && bos_.has_value();
}

inline void Vocabulary::load_tokens(const Gguf& gguf) {
  for (const std::string_view text : gguf.texts("tokenizer.ggml.tokens")) { texts_.emplace_back(text); }
  if (texts_.empty() || texts_.size() > (1U << 24)) {
    fail("{}: has a vocabulary of {} tokens; this engine takes 1 to 16777216.", gguf.file(), texts_.size());
  }
  // SentencePiece's own numbers, for files that do not say.
  const auto usual = [&](Token token) { return byte_level_ || token >= texts_.size() ? std::nullopt : std::optional(token); };
  bos_ = special(gguf, "tokenizer.ggml.bos_token_id", usual(1));
  eos_ = special(gguf, "tokenizer.ggml.eos_token_id", usual(2));
  unknown_ = special(gguf, "tokenizer.ggml.unknown_token_id", usual(0));
  load_kinds(gguf);
  if (!byte_level_) { find_byte_tokens(gguf); }
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    if (kinds_[i] != Kind::control && kinds_[i] != Kind::unknown && kinds_[i] != Kind::byte) {
      tokens_.emplace(texts_[i], static_cast<Token>(i));
    }
  }
  find_user_defined();
  if (byte_level_) {
    load_merges(gguf);
  } else {
    load_scores(gguf);
  }
}

inline void Vocabulary::load_kinds(const Gguf& gguf) {
  kinds_.assign(texts_.size(), Kind::normal);
  if (!gguf.has("tokenizer.ggml.token_type")) {
    const auto mark = [&](std::optional<Token> token, Kind kind) {
      if (token && texts_[*token].starts_with('<') && texts_[*token].ends_with('>')) { kinds_[*token] = kind; }
    };
    mark(bos_, Kind::control);
    mark(eos_, Kind::control);
    mark(unknown_, Kind::unknown);
    return;
  }
  const auto kinds = gguf.integers("tokenizer.ggml.token_type");
  if (kinds.size() != texts_.size()) { fail("{}: has {} token types for {} tokens.", gguf.file(), kinds.size(), texts_.size()); }
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    if (kinds[i] < 1 || kinds[i] > 6) { fail("{}: token {} has type {}; the types are 1 to 6.", gguf.file(), i, kinds[i]); }
    kinds_[i] = static_cast<Kind>(kinds[i]);
  }
}

/// The tokens <0x00> to <0xFF>: those of the type, and where it is missing those of the text.
inline void Vocabulary::find_byte_tokens(const Gguf& gguf) {
  const auto value_of = [](std::string_view text) -> std::optional<std::size_t> {
    constexpr std::string_view digits = "0123456789ABCDEF";
    if (text.size() != 6 || !text.starts_with("<0x") || text.back() != '>') { return std::nullopt; }
    const std::size_t high = digits.find(text[3]);
    const std::size_t low = digits.find(text[4]);
    return high < 16 && low < 16 ? std::optional(16 * high + low) : std::nullopt;
  };
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    if (kinds_[i] != Kind::byte) { continue; }
    const std::optional<std::size_t> value = value_of(texts_[i]);
    if (!value) { fail("{}: token {} is a byte, but its text is {} instead of <0x00> to <0xFF>.", gguf.file(), i, in_quotes(texts_[i])); }
    byte_tokens_[*value] = static_cast<Token>(i);
  }
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    const std::optional<std::size_t> value = kinds_[i] == Kind::normal ? value_of(texts_[i]) : std::nullopt;
    if (value && !byte_tokens_[*value]) {
      byte_tokens_[*value] = static_cast<Token>(i);
      kinds_[i] = Kind::byte;
    }
  }
}

inline void Vocabulary::find_user_defined() {
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    if (kinds_[i] == Kind::user_defined && !texts_[i].empty()) { user_defined_.push_back(static_cast<Token>(i)); }
  }
  std::stable_sort(user_defined_.begin(), user_defined_.end(), [&](Token a, Token b) { return texts_[a].size() > texts_[b].size(); });
}

inline void Vocabulary::load_scores(const Gguf& gguf) {
  if (!gguf.has("tokenizer.ggml.scores")) {
    scores_.assign(texts_.size(), 0.0);
    return;
  }
  scores_ = gguf.reals("tokenizer.ggml.scores");
  if (scores_.size() != texts_.size()) { fail("{}: has {} scores for {} tokens.", gguf.file(), scores_.size(), texts_.size()); }
  for (std::size_t i = 0; i < scores_.size(); ++i) {
    if (!std::isfinite(scores_[i])) { fail("{}: the score of token {} is not a finite number.", gguf.file(), i); }
  }
}

/// A wrong rule gives wrong tokens without any other sign, so none is guessed.
inline void Vocabulary::load_rule(const Gguf& gguf) {
  constexpr std::string_view known = "this engine has \"gpt-2\", \"llama-bpe\", \"qwen2\" and \"smollm\"";
  if (!gguf.has("tokenizer.ggml.pre")) {
    fail("{}: does not say how it cuts text into words (\"tokenizer.ggml.pre\" is missing); {}. Convert the model again.", gguf.file(),
         known);
  }
  const std::string_view rule = gguf.text("tokenizer.ggml.pre");
  if (rule == "llama-bpe" || rule == "llama3" || rule == "llama-v3") {
    rule_ = WordRule::llama3;
    whole_words_first_ = true;
  } else if (rule == "qwen2") {
    rule_ = WordRule::qwen2;
  } else if (rule == "smollm") {
    rule_ = WordRule::smollm;
  } else if (rule != "gpt-2") {
    fail("{}: cuts words by the rule {}; {}.", gguf.file(), in_quotes(rule), known);
  }
}

inline void Vocabulary::load_merges(const Gguf& gguf) {
  double priority = 0.0;
  for (const std::string_view merge : gguf.texts("tokenizer.ggml.merges")) { merges_.emplace(merge, priority--); }
  for (std::size_t byte = 0; byte < 256; ++byte) { character_bytes_.emplace(byte_characters_[byte], static_cast<char>(byte)); }
}

inline std::optional<Token> Vocabulary::special(const Gguf& gguf, std::string_view key, std::optional<Token> other) const {
  if (!gguf.has(key)) { return other; }
  const std::uint64_t token = gguf.integer(key);
  if (token >= texts_.size()) { fail("{}: {} is {}; the vocabulary has {} tokens.", gguf.file(), in_quotes(key), token, texts_.size()); }
  return static_cast<Token>(token);
}

inline std::vector<Token> Vocabulary::encode(std::string_view text, bool with_bos) const {
  std::vector<Token> result;
  if (with_bos && adds_bos_) { result.push_back(*bos_); }
  for (const Stretch& stretch : cut(text)) {
    if (stretch.token) {
      result.push_back(*stretch.token);
    } else if (byte_level_) {
      encode_byte_level(stretch.text, result);
    } else {
      encode_sentence_piece(stretch.text, result);
    }
  }
  return result;
}

/// Cuts the user-defined tokens out: the longest wherever it stands, then the next in what is left.
inline std::vector<Vocabulary::Stretch> Vocabulary::cut(std::string_view text) const {
  std::vector<Stretch> stretches;
  if (!text.empty()) { stretches.push_back({text, std::nullopt}); }
  for (const Token token : user_defined_) {
    const std::string_view wanted = texts_[token];
    if (text.find(wanted) == std::string_view::npos) { continue; }
    std::vector<Stretch> finer;
    for (Stretch stretch : stretches) {
      for (std::size_t at = 0; !stretch.token && (at = stretch.text.find(wanted)) != std::string_view::npos;) {
        if (at > 0) { finer.push_back({stretch.text.substr(0, at), std::nullopt}); }
        finer.push_back({stretch.text.substr(at, wanted.size()), token});
        stretch.text.remove_prefix(at + wanted.size());
      }
      if (!stretch.text.empty()) { finer.push_back(stretch); }
    }
    stretches = std::move(finer);
  }
  return stretches;
}

inline void Vocabulary::encode_sentence_piece(std::string_view text, std::vector<Token>& out) const {
  std::string marked(adds_space_ ? space_mark : "");
  for (const char c : text) {
    if (c == ' ') {
      marked += space_mark;
    } else {
      marked += c;
    }
  }
  std::string joined;
  const auto priority = [&](std::string_view left, std::string_view right) -> std::optional<double> {
    joined.assign(left).append(right);
    const std::optional<Token> token = find(joined);
    return token ? std::optional(scores_[*token]) : std::nullopt;
  };
  for (const std::string_view piece : merge_pairs(marked, priority)) {
    if (const std::optional<Token> token = find(piece)) {
      out.push_back(*token);
      continue;
    }
    for (const char c : piece) {
      const std::optional<Token> byte = byte_tokens_[static_cast<unsigned char>(c)];
      if (!byte && !unknown_) { fail("The vocabulary cannot spell the byte {:#04x}.", static_cast<unsigned char>(c)); }
      out.push_back(byte ? *byte : *unknown_);
    }
  }
}

inline void Vocabulary::encode_byte_level(std::string_view text, std::vector<Token>& out) const {
  std::string joined;
  const auto priority = [&](std::string_view left, std::string_view right) -> std::optional<double> {
    joined.assign(left).append(" ").append(right);
    const auto found = merges_.find(joined);
    return found == merges_.end() ? std::nullopt : std::optional(found->second);
  };
  std::string spelt;
  for (const std::string_view word : WordCutter(text, rule_).words()) {
    spelt.clear();
    for (const char c : word) { spelt += byte_characters_[static_cast<unsigned char>(c)]; }
    const std::optional<Token> whole = whole_words_first_ ? find(spelt) : std::nullopt;
    if (whole) {
      out.push_back(*whole);
      continue;
    }
    for (const std::string_view piece : merge_pairs(spelt, priority)) {
      const std::optional<Token> token = find(piece);
      if (!token && !unknown_) { fail("The vocabulary cannot spell {}.", in_quotes(piece)); }
      out.push_back(token ? *token : *unknown_);
    }
  }
}

inline std::string Vocabulary::piece(Token token) const {
  if (token >= texts_.size()) { fail("Token {} lies outside the vocabulary of {}.", token, texts_.size()); }
  const std::string_view text = texts_[token];
  std::string result;
  switch (kinds_[token]) {
    case Kind::control:
      return result;
    case Kind::unknown:
      return "\xEF\xBF\xBD";  // U+FFFD
    case Kind::byte:
      for (std::size_t byte = 0; byte < 256; ++byte) {
        if (byte_tokens_[byte] == token) { result.assign(1, static_cast<char>(byte)); }
      }
      return result;
    case Kind::user_defined:
      if (byte_level_) { return std::string(text); }  // stored as it stands in a text
      break;
    default:
      break;
  }
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view character = text.substr(at, character_bytes(text.substr(at)));
    const auto byte = character_bytes_.find(character);
    if (byte != character_bytes_.end()) {
      result += byte->second;
    } else if (!byte_level_ && character == space_mark) {
      result += ' ';
    } else {
      result += character;
    }
    at += character.size();
  }
  return result;
}

inline std::string Vocabulary::decode(std::span<const Token> tokens) const {
  std::string result;
  bool begins = adds_space_;  // a stretch of text, in front of which encode() put a space
  for (const Token token : tokens) {
    const std::string next = piece(token);
    const bool cut_out = kinds_[token] == Kind::user_defined && texts_[token].find(space_mark) == std::string::npos;
    result += begins && !cut_out && next.starts_with(' ') ? std::string_view(next).substr(1) : next;
    begins = adds_space_ && (cut_out || (begins && next.empty()));
  }
  return result;
}

}  // namespace llama
