# Everything that one does with knetd's sources. `make help` lists it.

SWIFT ?= swift
PREFIX ?= /usr/local
DESTDIR ?=
# What looks after Debian's packages; `SETUP=` leaves that to whoever builds an image or a package.
SETUP ?= setup
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)

# Needed to build; needed by tests and demo to look at the kernel with eyes other than ours.
BUILD_PACKAGES := libbpf-dev libmnl-dev libnftables-dev libsqlite3-dev libyaml-dev
TEST_PACKAGES := iproute2 nftables procps python3-jsonschema containernetworking-plugins \
	containerd podman crun conmon busybox-static bind9-dnsutils python3-dnspython musl-dev \
	frr bird2 gobgpd iputils-ping
# What the reference plugins execute, what measures the executable, what asks for names. Debian starts unbound and knot as soon as they are
# installed: whoever wants them beside knetd installs them himself, the benchmark finds them.
BENCH_PACKAGES := iptables binutils dnsperf
SOURCES := Sources Tests plugins Package.swift
# A CNI plugin is executed for every pod: what the dynamic linker need not do counts. These libraries go in where their archives
# are there, and no symbol of an executable is for others.
STATIC := .build/static
ARCHIVES := libstdc++.a libsqlite3.a libyaml.a libbpf.a libelf.a libz.a
RELEASE := -c release --static-swift-stdlib --disable-local-rpath \
	-Xlinker --no-export-dynamic -Xlinker --as-needed -Xlinker -L$(CURDIR)/$(STATIC)
# A folder with archives of libnftables, libnftnl and libmnl (deploy/netfilter-archives.sh makes them): the executable then
# needs no library of the machine's at all, and is the CNI plugin of hosts that are not Debian's.
NETFILTER ?=
RELEASE += $(if $(NETFILTER),-Xswiftc -static-executable -Xlinker -L$(NETFILTER))
WIRE := Sources/KnetKubernetes/Wire
# What has to hold over eBPF by direct routes too, and where a kernel refuses some of it.
EBPF_SUITES := EndToEndTests\.(Service|Policy|Restart)Tests
# Options of the benchmark: `make bench BENCH="--only cni --pods 100"`; `--help` lists them.
BENCH ?=

.DEFAULT_GOAL := help
.PHONY: help setup build test nightly kernels proto demo bench check fmt install clean

help: ## List the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  \1\t/' | expand -t 12

setup: ## Install the Debian packages that are missing
	@missing=$$(for package in $(BUILD_PACKAGES) $(TEST_PACKAGES) $(BENCH_PACKAGES); do \
		dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || echo $$package; done); \
	test -z "$$missing" || $(SUDO) Tests/install.sh $$missing

build: $(SETUP) $(STATIC) ## Build the executable for use: optimised, Swift's runtime inside (.build/release/knetd)
	$(SWIFT) build $(RELEASE) --product knetd

test: setup ## Run all tests on this machine's kernel; as root, or what needs root is skipped
	$(SWIFT) build --build-tests
	SWIFT=$(SWIFT) Tests/run.sh
	Tests/example-plugin.sh

nightly: setup ## The random tests at length: 10,000 runs against a server that misbehaves and of services, 500 of policies, 10 million broken messages, as many packets; all that has daemons over eBPF; 50 failovers
	$(SWIFT) build --build-tests
	KNETD_RANDOM_RUNS=10000 KNETD_FUZZ_RUNS=5000000 KNETD_POLICY_RUNS=500 KNETD_POLICY_EXPLAIN=5 KNETD_POLICY_STARTS=500 SWIFT=$(SWIFT) \
		Tests/run.sh --filter "FollowTests|RandomTests|RandomEventTests|FuzzTests|PolicyTests|PolicyStartTests"
	KNETD_FUZZ_RUNS=10000000 SWIFT=$(SWIFT) Tests/run.sh --filter "ProgramTests|EBPFPluginTests\.Balance"
	KNETD_TEST_DATAPLANE=ebpf SWIFT=$(SWIFT) Tests/run.sh --filter EndToEndTests
	KNETD_TEST_DATAPLANE=ebpf-direct SWIFT=$(SWIFT) Tests/run.sh --filter "$(EBPF_SUITES)"
	for part in tcx cgroup load,cgroup; do \
		KNETD_BPF_REFUSE=$$part KNETD_TEST_DATAPLANE=ebpf SWIFT=$(SWIFT) Tests/run.sh --filter "$(EBPF_SUITES)" || exit 1; done
	KNETD_FAILOVER_RUNS=50 SWIFT=$(SWIFT) Tests/run.sh --filter Layer2Tests

kernels: setup ## The BPF programs of packets on Debian's 6.1 and 6.12, in virtual machines without KVM; needs qemu-system-x86 and busybox-static
	$(SWIFT) build --build-tests
	for kernel in 6.1 6.12; do \
		Tests/run-in-kernel.sh -t 1800 $$kernel env KNETD_FUZZ_RUNS=5000 .build/debug/knetdPackageTests.xctest \
			--testing-library swift-testing --no-parallel --filter "ProgramTests|FlowTests|CatchingUpTests|MapLifeTests|EBPFPluginTests\.Balance" || exit 1; \
	done

proto: ## Make the API's messages anew from the reduced .proto; needs Debian's protobuf-compiler
	$(SWIFT) build --scratch-path .build-proto --package-path .build/checkouts/swift-protobuf --product protoc-gen-swift
	protoc --plugin=.build-proto/debug/protoc-gen-swift --swift_opt=Visibility=Package \
		--swift_opt=UseAccessLevelOnImports=true --proto_path=$(WIRE) --swift_out=$(WIRE) kubernetes.proto

demo: setup ## Three nodes, six pods, every pair tried with real packets, for each dataplane; needs root
	$(SWIFT) build --product knetd
	$(SUDO) .build/debug/knetd playground demo

bench: build ## Time knetd beside what one would use instead, in the same run (about 12 minutes); needs root
	$(SWIFT) build $(RELEASE) --product knetd-bench
	$(SUDO) .build/release/knetd-bench $(BENCH)

check: setup ## Format, warnings as errors, and every set of plugins: all, none, each alone
	$(SWIFT) format lint --strict --recursive $(SOURCES)
	Tests/check-builds.sh

fmt: ## Format the sources in place
	$(SWIFT) format --in-place --recursive $(SOURCES)

install: build ## Install the executable, an example configuration and the systemd unit below DESTDIR
	install -D -s -m 0755 .build/release/knetd $(DESTDIR)$(PREFIX)/bin/knetd
	install -D -m 0644 deploy/knetd.service $(DESTDIR)/etc/systemd/system/knetd.service
	test -e $(DESTDIR)/etc/knetd/knetd.json || install -D -m 0644 configs/single-node.json $(DESTDIR)/etc/knetd/knetd.json

$(STATIC): Makefile
	@mkdir -p $@ && touch $@
	@triple=$$(uname -m)-linux-gnu; for name in $(ARCHIVES); do \
		archive=$$(ls /usr/lib/$$triple/$$name /usr/lib/gcc/$$triple/*/$$name 2>/dev/null | tail -1); \
		test -z "$$archive" || ln -sf $$archive $@/$$name; done

clean: ## Remove what was built
	rm -rf .build .build-*
