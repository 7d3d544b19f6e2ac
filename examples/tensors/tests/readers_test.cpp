// examples/tensors/tests/readers_test.cpp - .npy, .npz and .safetensors: what is read, and in which sentence the rest is refused.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "files.hpp"

namespace tensors {
namespace {

using namespace testing;

std::vector<float> numbers_of(const Array& array) {
  const Bytes bytes = array.read();
  std::vector<float> numbers;
  for (std::size_t at = 0; at < bytes.bytes.size(); at += bytes_of(array.element)) {
    numbers.push_back(number_at(array.element, bytes.bytes.data() + at));
  }
  return numbers;
}

std::vector<float> numbers_of_npy(const std::string& file) {
  const Folder folder;
  return numbers_of(read_npy(folder.put("keys.npy", file)));
}
std::string npy_refusal(const std::string& file) {
  const Folder folder;
  return refusal(folder, [&] { numbers_of(read_npy(folder.put("keys.npy", file))); });
}

TEST(Npy, ReadsBothTypesFromOddAddressesAndAllVersions) {
  const std::vector<float> numbers{1.0F, -2.5F, 65504.0F};
  for (const char version : {'\1', '\2', '\3'}) {
    for (const char* space : {"", " "}) {  // one of the two makes the address odd
      EXPECT_EQ(
          numbers_of_npy(npy(std::string("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}") + space, floats(numbers), version)),
          numbers);
    }
  }
  EXPECT_EQ(numbers_of_npy(npy_of("<f2", "(2, 2)", std::string("\x00\x3C\x00\xC1\xFF\x7B\x01\x00", 8))),
            (std::vector<float>{1.0F, -2.5F, 65504.0F, 5.9604644775390625e-8F}));
  EXPECT_EQ(numbers_of_npy(npy("{\"shape\": (1L, 3L), \"fortran_order\": False, \"descr\": \"<f4\"}", floats(numbers))), numbers)
      << "Python 2";
}

TEST(Npy, SaysWhatIsWrong) {
  const std::string three = counted_floats(3);
  EXPECT_EQ(npy_refusal(npy_of("<f4", "(3,)", three.substr(0, 11))),
            "keys.npy: is truncated: shape (3) needs 12 bytes, and 11 follow the header.");
  EXPECT_EQ(npy_refusal(npy_of("<f4", "(3,)", three + "x")), "keys.npy: is too long: shape (3) needs 12 bytes, and 13 follow the header.");
  EXPECT_EQ(npy_refusal(npy_of(">f4", "(3,)", three)), "keys.npy: is big endian (dtype \">f4\"), must be little endian.");
  EXPECT_EQ(npy_refusal(npy_of("<i4", "(3,)", three)), "keys.npy: has dtype \"<i4\", must be <f4 or <f2 (bfloat16: as safetensors).");
  EXPECT_EQ(npy_refusal(npy("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 3), }", three)),
            "keys.npy: is in Fortran order, must be in C order (numpy.ascontiguousarray).");
  EXPECT_NE(npy_refusal(npy("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (3,), }", three)).find("has a record for dtype"),
            std::string::npos);
  EXPECT_EQ(npy_refusal(npy_of("<f4", "(4294967296, 4294967296, 2)", three)),
            "keys.npy: has shape (4294967296, 4294967296, 2), whose bytes overflow 64 bits.");
  EXPECT_NE(npy_refusal(npy_of("<f4", "(99999999999999999999,)", three)).find("its shape overflows 64 bits"), std::string::npos);
  EXPECT_EQ(npy_refusal(npy_of("<f4", "(3, 0)", "")), "keys.npy: has shape (3, 0), must have at least one number.");
}

TEST(Npy, RefusesHeadersThatAreNone) {
  for (const char* dictionary :
       {"", "{", "{'descr': '<f4'}", "{'descr': '<f4', 'fortran_order': False, 'shape': (3,}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (3,)}", "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'more': 1}", "{'descr': '<f4' 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<f4, 'fortran_order': False, 'shape': (3,)}"}) {
    EXPECT_NE(npy_refusal(npy(dictionary, counted_floats(3))), "") << dictionary;
  }
  EXPECT_EQ(npy_refusal(""), "keys.npy: is empty.");
  EXPECT_EQ(npy_refusal("no array, but long enough"), "keys.npy: is not in NumPy's .npy format.");
  EXPECT_EQ(npy_refusal(npy("{}", "", '\4')), "keys.npy: is of .npy version 4.0, must be 1.0 to 3.0.");
  std::string long_header = npy_of("<f4", "(3,)", counted_floats(3));
  long_header[9] = '\x7F';
  EXPECT_NE(npy_refusal(long_header).find("its header says that it has 32"), std::string::npos) << npy_refusal(long_header);
  for (std::size_t cut = 1; cut < 90; ++cut) {
    const std::string whole = npy_of("<f4", "(3,)", counted_floats(3));
    if (cut < whole.size()) { EXPECT_NE(npy_refusal(whole.substr(0, cut)), "") << cut; }
  }
}

std::vector<Array> safetensors_of(const Folder& folder, const std::string& file) {
  return read_safetensors(folder.put("m.safetensors", file), [](const std::string& name) { return name != "tokens"; });
}
std::string safetensors_refusal(const std::string& file) {
  const Folder folder;
  return refusal(folder, [&] { safetensors_of(folder, file); });
}

TEST(Safetensors, ReadsThreeTypesAndLeavesOthersAlone) {
  const Folder folder;
  const auto arrays = safetensors_of(folder, safetensors({{"tokens", "I64", "[1]", std::string(8, '\0')},
                                                          {"a", "BF16", "[2]", std::string("\xC0\x3F\x20\xC0", 4)},
                                                          {"b", "F16", "[1,1]", std::string("\x00\xC1", 2)},
                                                          {"c", "F32", "[1]", floats({7.25F})}}));
  ASSERT_EQ(arrays.size(), 3U);
  EXPECT_EQ(numbers_of(arrays[0]), (std::vector<float>{1.5F, -2.5F}));
  EXPECT_EQ(numbers_of(arrays[1]), std::vector<float>{-2.5F});
  EXPECT_EQ(numbers_of(arrays[2]), std::vector<float>{7.25F});
  EXPECT_EQ(arrays[1].shape, (Sizes{1, 1}));
}

TEST(Safetensors, SaysWhatIsWrong) {
  const std::string good = safetensors({{"k", "F32", "[3]", counted_floats(3)}});
  EXPECT_EQ(safetensors_refusal(good), "");
  EXPECT_EQ(safetensors_refusal(good.substr(0, good.size() - 1)),
            "m.safetensors: array \"k\": is truncated: ends at byte 12 of the data, and the file has 11.");
  EXPECT_NE(safetensors_refusal(good.substr(0, 20)).find("is truncated or not in the safetensors format"), std::string::npos);
  EXPECT_NE(safetensors_refusal("abc").find("is truncated"), std::string::npos);
  EXPECT_NE(safetensors_refusal(std::string(8, '\xFF') + good).find("its header says that it has 18446744073709551615 bytes"),
            std::string::npos);
  EXPECT_EQ(safetensors_refusal(bytes_of_number(2, 8) + "[]"), "m.safetensors: its header is no JSON object.");
  EXPECT_EQ(safetensors_refusal(safetensors({{"k", "F64", "[3]", std::string(24, '\0')}})),
            "m.safetensors: array \"k\": has dtype \"F64\", must be F32, F16 or BF16.");
  EXPECT_EQ(safetensors_refusal(safetensors({{"k", "F32", "[4]", counted_floats(3)}})),
            "m.safetensors: array \"k\": has shape (4), which needs 16 bytes, but its data_offsets (0, 12) span 12.");
  EXPECT_NE(safetensors_refusal(safetensors({{"k", "F32", "[4294967296,4294967296]", counted_floats(3)}})).find("overflow 64 bits"),
            std::string::npos);
  for (const char* shape : {"[-3]", "[3.0]", "[1e30]", "3", "null", "[[3]]", "[18446744073709551616]"}) {
    EXPECT_NE(safetensors_refusal(safetensors({{"k", "F32", shape, counted_floats(3)}})).find("array \"k\": its shape is"),
              std::string::npos)
        << shape;
  }
  const auto with_header = [](const std::string& header) { return bytes_of_number(header.size(), 8) + header + counted_floats(3); };
  EXPECT_EQ(safetensors_refusal(with_header(R"({"k":{"dtype":"F32","shape":[3]}})")),
            "m.safetensors: array \"k\": its header has no data_offsets.");
  EXPECT_EQ(safetensors_refusal(with_header(R"({"k":{"dtype":"F32","shape":[3],"data_offsets":[12,0]}})")),
            "m.safetensors: array \"k\": its data_offsets are (12, 0), must be a begin and an end.");
  EXPECT_EQ(safetensors_refusal(with_header(R"({"k":7})")), "m.safetensors: array \"k\": its header has no dtype.");
}

#if defined(KVCOMPRESS_HAS_LIBZIP)

std::vector<Array> npz_of(const Folder& folder, const std::string& file) {
  return read_npz(folder.put("a.npz", file), [](const std::string& name) { return name != "tokens"; });
}
std::string npz_refusal(const std::string& file) {
  const Folder folder;
  return refusal(folder, [&] {
    for (const Array& array : npz_of(folder, file)) { numbers_of(array); }
  });
}

TEST(Npz, ReadsStoredAndDeflatedMembers) {
  const Folder folder;
  const std::string large = npy_f32({200, 100});  // more than one block
  const auto arrays = npz_of(folder, zip({{"keys.npy", npy_f32({3}), false},
                                          {"values.npy", large, true},
                                          {"readme.txt", "no array"},
                                          {"tokens.npy", npy_of("<i8", "(1,)", std::string(8, '\0'))}}));
  ASSERT_EQ(arrays.size(), 2U);
  EXPECT_EQ(arrays[0].name, "keys");
  EXPECT_EQ(numbers_of(arrays[0]), (std::vector<float>{0.0F, 1.0F, 2.0F}));
  ASSERT_EQ(numbers_of(arrays[1]).size(), 20000U);
  EXPECT_EQ(numbers_of(arrays[1]).back(), 19999.0F);
}

TEST(Npz, SaysWhatIsWrong) {
  const std::string array = npy_f32({3});
  const std::string good = zip({{"k.npy", array, true}});
  EXPECT_EQ(npz_refusal(good), "");
  EXPECT_NE(npz_refusal(good.substr(0, good.size() - 30)).find("a.npz: is truncated or no ZIP archive"), std::string::npos);
  EXPECT_EQ(npz_refusal(zip({{"k.npy", array, false, 0, 1}})), "a.npz: array \"k\": CRC error.");
  EXPECT_EQ(npz_refusal(zip({{"k.npy", array, true, 0, 1}})), "a.npz: array \"k\": CRC error.");
  EXPECT_EQ(npz_refusal(zip({{"k.npy", array, false, 12}})),
            "a.npz: array \"k\": is packed by method 12, must be stored (0) or deflated (8).");
  EXPECT_EQ(npz_refusal(zip({{"k.npy", array.substr(0, array.size() - 4), true}})),
            "a.npz: array \"k\": is truncated: shape (3) needs 12 bytes, and 8 follow the header.");
  EXPECT_EQ(npz_refusal(zip({{"k.npy", "text that is no array", true}})), "a.npz: array \"k\": is not in NumPy's .npy format.");
  EXPECT_NE(npz_refusal(zip({{"k.npy", array, true, 0, 0, static_cast<std::int64_t>(array.size()) + 4}})), "") << "ends early";
}

TEST(Npz, AllocatesNothingForABomb) {
  // The shape asks for more than the archive says, the archive for more than deflate can hold, or the member holds more than it says.
  EXPECT_NE(npz_refusal(zip({{"k.npy", npy_of("<f4", "(1000000000, 1000)", ""), true}})).find("is truncated: shape (1000000000, 1000)"),
            std::string::npos);
  const std::string header = npy_of("<f4", "(1000000000,)", "");
  EXPECT_NE(npz_refusal(
                zip({{"k.npy", header + std::string(70'000, '\0'), true, 0, 0, static_cast<std::int64_t>(header.size()) + 4'000'000'000}}))
                .find("cannot unpack to"),
            std::string::npos);
  const std::string array = npy_f32({3});
  EXPECT_NE(npz_refusal(zip({{"k.npy", array + std::string(100'000, '\0'), true, 0, 0, static_cast<std::int64_t>(array.size())}})), "");
}

TEST(Npz, ReadsWhatNumPyWrote) {
  const std::filesystem::path data = std::filesystem::path(__FILE__).parent_path() / "data";
  const Dump dump = read_dump(data / "numpy_1_24", "--layout", {});  // by dump_kv.py's write() and numpy.savez_compressed
  EXPECT_EQ(dump.layers, (std::vector<std::size_t>{3, 7}));
  EXPECT_EQ(dump.tokens, 10U);
  EXPECT_EQ(dump.query_heads, 4U);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    const LayerRows& rows = dump.sequences[0][layer];
    // keys[0, head, token, dim] is 100 head + 10 token + dim + layer / 2, values the same negative, queries 500 more.
    EXPECT_EQ(rows.keys[(9 * 2 + 1) * 4 + 3], 193.0F + (layer == 0 ? 1.5F : 3.5F));
    EXPECT_EQ(rows.values[(5 * 2 + 0) * 4 + 2], -52.0F - (layer == 0 ? 1.5F : 3.5F));
    EXPECT_EQ(rows.queries[(2 * 4 + 3) * 4 + 1], 821.0F + (layer == 0 ? 1.5F : 3.5F));
  }
}

#else

TEST(Npz, IsRefusedWithoutLibzip) {
  const Folder folder;
  folder.put("a.npz", "anything");
  EXPECT_EQ(refusal(folder),
            "a.npz: this program was built without libzip (Debian: libzip-dev), which reads .npz; save .npy or .safetensors instead.");
}

#endif

}  // namespace
}  // namespace tensors
