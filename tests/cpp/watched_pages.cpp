// A mapped file that is cut short reads as zeros and is known to; every other SIGBUS ends as it
// would without hrun.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/mapped_file.h"

namespace {

int failures = 0;
void check(bool ok, const char* what) {
  if (!ok && ++failures) std::printf("%s\n", what);
}

const auto kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));

struct TemporaryFile {
  std::string path = "/tmp/hrun-watched-XXXXXX";
  int fd;
  explicit TemporaryFile(size_t pages) : fd(mkstemp(path.data())) {
    const std::vector<uint8_t> ones(pages * kPage, 1);
    check(write(fd, ones.data(), ones.size()) == static_cast<ssize_t>(ones.size()),
          "the file is written");
  }
  ~TemporaryFile() {
    close(fd);
    unlink(path.c_str());
  }
  void cut(size_t bytes) const {
    check(ftruncate(fd, static_cast<off_t>(bytes)) == 0, "the file is cut");
  }
};

// Runs f in a child process.  Returns its exit code, or less than 0 if it was killed.
template <class Function>
int exit_code_of(Function&& f) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    f();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

int read_byte(const uint8_t* at) { return *static_cast<const volatile uint8_t*>(at); }

// Maps a file that hrun does not watch and of which nothing is left.
const uint8_t* unwatched(const TemporaryFile& file) {
  void* const memory = mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, file.fd, 0);
  file.cut(0);
  return static_cast<const uint8_t*>(memory);
}

void call_from_before(int) { _exit(7); }

}  // namespace

int main() {
  // The first file installs the handler.  So the handlers that were there before can be tried, in
  // child processes, only before that.
  check(exit_code_of([] {
          std::signal(SIGBUS, call_from_before);
          const TemporaryFile watched(1), other(1);
          const hrun::MappedFile file = hrun::MappedFile::open(watched.path);
          read_byte(unwatched(other));
        }) == 7,
        "a handler that was there before is called");

  const TemporaryFile whole(3), cut(16);
  const hrun::MappedFile sound = hrun::MappedFile::open(whole.path);
  hrun::MappedFile opened = hrun::MappedFile::open(cut.path);
  const hrun::MappedFile file = std::move(opened);
  check(!file.unreadable_from() && read_byte(file.bytes().data() + 9 * kPage) == 1, "a sound file");
  cut.cut(4 * kPage + 10);
  check(!file.unreadable_from(), "nothing has been read yet");
  for (size_t page = 16; page-- > 0;) {
    const int expected = page < 5 ? 1 : 0;
    check(read_byte(file.bytes().data() + page * kPage) == expected, "what is left, then zeros");
  }
  check(file.unreadable_from() == 5 * kPage, "the first page that was not read");
  check(!sound.unreadable_from() && read_byte(sound.bytes().data() + 2 * kPage) == 1,
        "another file is as it was");

  {  // places are used again, and start without memory of the file before
    const TemporaryFile third(2);
    hrun::MappedFile again = hrun::MappedFile::open(third.path);
    third.cut(0);
    check(read_byte(again.bytes().data() + kPage) == 0 && again.unreadable_from() == kPage,
          "from the page that was read on");
    again = hrun::MappedFile::open(whole.path);
    check(!again.unreadable_from(), "the next file in its place");
  }

  check(exit_code_of([] {
          const TemporaryFile other(1);
          read_byte(unwatched(other));
        }) != 0,
        "memory of others is not touched");
  check(exit_code_of([] { kill(getpid(), SIGBUS); }) != 0, "a signal that was sent");
  return failures;
}
