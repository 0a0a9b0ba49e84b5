// model.safetensors.index.json beside two small shards: whatever it says, no file outside its
// directory is opened, and what is accepted lists exactly the shards' tensors.

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "dualfp/io/safetensors.h"
#include "dualfp/io/safetensors_writer.h"
#include "fuzz/fuzz.h"

using dualfp::Checkpoint;
using dualfp::SafetensorsFileWriter;
using dualfp::fuzz::Require;

namespace {

// DIRECTORY/ckpt/{a,b}.safetensors, and DIRECTORY/c.safetensors for the index not to reach.
class Shards {
 public:
  Shards() {
    // In memory where there is such a place: a disk would be the slowest part by far.
    const std::filesystem::path base =
        std::filesystem::exists("/dev/shm") ? "/dev/shm" : std::filesystem::temp_directory_path();
    std::string name = (base / "dualfp_fuzz_XXXXXX").string();
    Require(mkdtemp(name.data()) != nullptr, "a temporary directory");
    parent_ = name;
    std::filesystem::create_directory(directory());
    Write(directory() / "a.safetensors", "x");
    Write(directory() / "b.safetensors", "y");
    Write(parent_ / "c.safetensors", "z");
  }
  ~Shards() { std::filesystem::remove_all(parent_); }

  std::filesystem::path directory() const { return parent_ / "ckpt"; }

 private:
  static void Write(const std::filesystem::path& path, const std::string& tensor) {
    SafetensorsFileWriter writer(path, {{tensor, dualfp::DType::kU8, {1}}});
    writer.Append(tensor, "1", 1);
    writer.Commit();
  }

  std::filesystem::path parent_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Shards shards;
  std::ofstream(shards.directory() / Checkpoint::kIndexName, std::ios::binary)
      << dualfp::fuzz::AsText(data, size);
  dualfp::fuzz::ExpectOnlyInputErrors([&] {
    const Checkpoint checkpoint = Checkpoint::Open(shards.directory());
    Require(!checkpoint.files().empty() && checkpoint.files().size() <= 2, "one or two shards");
    Require(checkpoint.Find("z") == nullptr, "no file from outside");
    for (const dualfp::TensorEntry& entry : checkpoint.entries()) {
      Require(*checkpoint.Read(entry).view().as<char>() == '1', "the shard's data");
    }
  });
  return 0;
}
