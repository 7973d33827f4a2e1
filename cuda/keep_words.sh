#!/bin/sh
# keep_words.sh COMPILER ... -o OBJECT ...: what the compiler says is also in OBJECT.words.
before=
for word; do
  [ "$before" = -o ] && object=$word
  before=$word
done
"$@" >"$object.words" 2>&1
status=$?
cat "$object.words" >&2
exit $status
