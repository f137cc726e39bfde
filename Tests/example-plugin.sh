#!/usr/bin/env bash
# Follows ARCHITECTURE.md's section "Adding a plugin" to the letter in a copy of the sources, then builds and asks the
# result for its configuration. The example's three pieces are taken from the page itself.
set -euo pipefail
cd "$(dirname "$0")/.."
copy=$PWD/.build-example
rm -rf "$copy"
mkdir -p "$copy"
cp -r Package.swift Sources Tests plugins ARCHITECTURE.md "$copy"
cd "$copy"
python3 - <<'PYTHON'
import os, re
page = open("ARCHITECTURE.md").read()
section = page[page.index("## Adding a plugin"):]
blocks = dict(re.findall(r"<!-- (\w+) -->\n```swift\n(.*?)```", section, re.S))
os.makedirs("plugins/example/Sources"); os.makedirs("plugins/example/Tests")
open("plugins/example/Sources/Example.swift", "w").write(blocks["plugin"])
open("plugins/example/Tests/ExampleTests.swift", "w").write(blocks["test"])
open("plugins/example/README.md", "w").write("# example\n")
def insert(path, marker, text):
    source = open(path).read()
    assert source.count(marker) == 1, (path, marker)
    open(path, "w").write(source.replace(marker, text + marker))
row, imported, line = blocks["row"], blocks["import"], blocks["line"]
package = open("Package.swift").read()
last = list(re.finditer(r'^    \("\w+", "[\w-]+", ".*"\),\n', package, re.M))[-1].end()
open("Package.swift", "w").write(package[:last] + row + package[last:])
insert("Sources/knetd/Plugins.swift", "\n/// The plugins of this build", imported)
insert("Sources/knetd/Plugins.swift", "        return all\n", line)
PYTHON
# The dependencies are those that are built already; only knetd's own modules are built again.
swift build --scratch-path "$copy/../.build" --package-path "$copy" --product knetd
../.build/debug/knetd config validate /dev/stdin <<<'{"plugins": {"example": {"greeting": "hello"}}}'
../.build/debug/knetd config schema >schema.json
grep -q '"greeting"' schema.json
cd ..
rm -rf "$copy"
# What lies in .build is to be knetd's own again.
swift build --product knetd
echo "the example plugin builds as ARCHITECTURE.md says"
