#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace hrun {
namespace {

constexpr size_t kPathLimit = 4096;  // bytes of a path shown in a message

[[noreturn]] void fail(const std::string& path, std::string_view why) {
  throw ModelFileError("cannot open '{}': {}", printable(path, kPathLimit), why);
}

[[noreturn]] void fail_errno(const std::string& path, int error) {
  switch (error) {
    case ENOENT:
      fail(path, "no such file");
    case EACCES:
      fail(path, "permission denied");
    case ELOOP:
      fail(path, "too many levels of symbolic links");
    default:
      fail(path, std::generic_category().message(error));
  }
}

void require_regular(const std::string& path, const struct stat& status) {
  const mode_t mode = status.st_mode;
  if (S_ISREG(mode)) return;
  const char* what = S_ISDIR(mode)                    ? "is a directory"
                     : S_ISFIFO(mode)                 ? "is a FIFO"
                     : S_ISSOCK(mode)                 ? "is a socket"
                     : S_ISCHR(mode) || S_ISBLK(mode) ? "is a device"
                                                      : "is not a file";
  fail(path, message("{}, expected a regular file", what));
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

MappedFile MappedFile::open(const std::string& path) {
  if (path.empty()) fail(path, "the path is empty");
  if (path.find('\0') != std::string::npos) fail(path, "the path contains a zero byte");
  struct stat before{};
  // We look at the file before we open it, because opening a device can have side effects.
  if (::stat(path.c_str(), &before) != 0) fail_errno(path, errno);
  require_regular(path, before);

  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) fail_errno(path, errno);
  if (::fstat(file.get(), &before) != 0) fail_errno(path, errno);
  require_regular(path, before);
  if (before.st_size == 0) fail(path, "the file is empty");
  const auto size = static_cast<size_t>(before.st_size);

  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED)
    fail(path, message("cannot map {} bytes: {}", size, std::generic_category().message(errno)));
  MappedFile mapped(std::span<const uint8_t>(static_cast<const uint8_t*>(address), size));

  // A file that grows is still being written.
  struct stat after{};
  if (::fstat(file.get(), &after) != 0) fail_errno(path, errno);
  if (after.st_size != before.st_size)
    fail(path, message("the file changed while it was being opened: {} bytes, then {}", size,
                       after.st_size));
  return mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : bytes_(std::exchange(other.bytes_, {})), watched_(std::move(other.watched_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(watched_, other.watched_);
  return *this;
}

MappedFile::~MappedFile() {
  if (bytes_.empty()) return;
  { const WatchedPages last = std::move(watched_); }
  ::munmap(const_cast<uint8_t*>(bytes_.data()), bytes_.size());
}

void MappedFile::release_pages(size_t offset, size_t length) const {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t begin = (offset + page - 1) / page * page, end = (offset + length) / page * page;
  // This is only advice: the pages are clean and the file is still there.
  if (begin < end && end <= bytes_.size())
    madvise(const_cast<uint8_t*>(bytes_.data()) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace hrun
