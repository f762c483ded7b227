# shellcheck shell=bash
#
# setup.sh: what test/demo, test/run and .ci/run need before they can begin.
# Sourced, not run.
#
#   need_packages [for-tests | for-fuzz]
#                               find a PostgreSQL server with its development
#                               files, installing what is missing; sets PG_CONFIG
#   apt_update, apt_install PACKAGE...
#                               the same for what else a script takes, as root
#                               on Debian and Ubuntu
#   make_workspace              make $work, a temporary directory that is removed
#                               at the end, and copy the sources to $work/src
#   build_and_install           build there and install below $work, where the
#                               system's own directories need not be writable
#   start_server                start a server of our own, with the settings on
#                               standard input; it ends with the script.  Sets
#                               $bindir, and $sock, the directory of its socket
#   suite NAME CONF VARIABLE... run one kind of test; counts in $passed and $failed
#   begin_suite ..., end_suites the same, several beside each other
#   as_user COMMAND...          run a command as an unprivileged user, for
#                               PostgreSQL refuses to run as root
#
# Nothing outside $work is written, except by the package manager.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# --- packages ---------------------------------------------------------------

# Is this the pg_config of a server that we can build for and start?
usable_pg_config() {
	local pgxs headers bindir
	pgxs=$("$1" --pgxs 2>/dev/null) && headers=$("$1" --includedir-server 2>/dev/null) &&
		bindir=$("$1" --bindir 2>/dev/null) || return 1
	# Debian's client package has the makefiles, but not the headers they need
	[ -f "$pgxs" ] && [ -f "$headers/postgres.h" ] && [ -x "$bindir/postgres" ] && [ -x "$bindir/initdb" ]
}

# Set PG_CONFIG: the one asked for, or the newest there is.
find_pg_config() {
	local candidate
	if [ "${PG_CONFIG:-pg_config}" != pg_config ]; then
		usable_pg_config "$PG_CONFIG" && return 0
		die "PG_CONFIG=$PG_CONFIG belongs to no PostgreSQL server with development files."
	fi
	for candidate in pg_config \
		$(printf '%s\n' /usr/lib/postgresql/*/bin/pg_config /usr/pgsql-*/bin/pg_config | sort -Vr); do
		if usable_pg_config "$candidate"; then
			PG_CONFIG=$(command -v "$candidate")
			return 0
		fi
	done
	return 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# The packages that are missing, for Debian and Ubuntu.
missing_packages() {
	local version
	find_pg_config || {
		version=$(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1 |
			sed -n 's|/usr/lib/postgresql/\([0-9]*\)/.*|\1|p')
		[ -n "$version" ] || version=$(apt-cache depends postgresql 2>/dev/null |
			sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p' | head -n 1)
		# without package lists, the packages that stand for the newest release;
		# a server that is there stays as it is
		[ -x "/usr/lib/postgresql/$version/bin/postgres" ] || say "postgresql${version:+-$version}"
		say "postgresql-server-dev-${version:-all}"
	}
	have gcc || say "gcc libc6-dev"
	[ -f /usr/include/xxhash.h ] || say libxxhash-dev
	if [ "${1:-}" = for-tests ]; then
		have prove || say perl
		perl -MIPC::Run -e 1 2>/dev/null || say libipc-run-perl
	fi
	[ "${1:-}" != for-fuzz ] || have sqlsmith || say sqlsmith
}

# what the package manager has to be run by; need_packages finds out
sudo=

# Package lists as of now; once is enough for all that a script calls.
apt_update() {
	[ -z "${OPTOUT_APT_UPDATED:-}" ] || return 0
	$sudo apt-get update -q >/dev/null 2>&1 || say "apt-get update failed; going on with the lists there are."
	export OPTOUT_APT_UPDATED=yes
}

# apt_install PACKAGE...: shows what went wrong, if anything.
apt_install() {
	local log status=0
	apt_update
	log=$(mktemp)
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >"$log" 2>&1 ||
		{ status=1; tail -n 20 "$log" >&2; }
	rm -f "$log"
	return "$status"
}

need_packages() {
	local packages failed conf=/etc/postgresql-common/createcluster.d/optout-no-cluster.conf
	[ -z "$(missing_packages "$@")" ] && { find_pg_config; return; }

	have apt-get || die "Missing: a PostgreSQL server (15 or later) with its development files, gcc, xxhash.h${1:+, prove, IPC::Run of Perl}.
Install them with your package manager, for example:
  dnf install postgresql-server postgresql-server-devel gcc redhat-rpm-config xxhash-devel${1:+ perl-Test-Harness perl-IPC-Run}"
	if [ "$(id -u)" != 0 ]; then
		if have sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
			sudo=sudo
		else
			packages=$(missing_packages "$@" | tr '\n' ' ')
			die "Some packages are missing. Run this as root, then try again:
  apt-get update && apt-get install -y --no-install-recommends $packages"
		fi
	fi

	# a new machine has no package lists yet, and they say what there is
	apt_update
	packages=$(missing_packages "$@" | tr '\n' ' ')
	say "Installing $packages..."
	# the server package would make and start a database cluster of its own
	$sudo mkdir -p "${conf%/*}" && say "create_main_cluster = false" | $sudo tee "$conf" >/dev/null
	failed=
	# shellcheck disable=SC2086
	apt_install $packages || failed=yes
	$sudo rm -f "$conf"
	[ -z "$failed" ] || die "Could not install the packages. Install them, then try again:
  apt-get install -y --no-install-recommends $packages"
	find_pg_config || die "No PostgreSQL server with development files found even now; set PG_CONFIG."
}

# --- workspace --------------------------------------------------------------

keep_work=
sock=
finish() {
	local status=$?
	trap - EXIT
	# the server, if there is one, ends before its directory goes
	if declare -F at_end >/dev/null; then at_end || true; fi
	if [ -n "$sock" ]; then stop_server; fi
	if [ -n "$keep_work" ]; then
		say "Everything is kept in $work."
	else
		rm -rf "$work"
	fi
	exit "$status"
}

make_workspace() {
	work=$(mktemp -d "${TMPDIR:-/tmp}/optout.XXXXXX")
	trap finish EXIT
	trap 'exit 130' INT TERM HUP
	chmod 755 "$work"
	mkdir "$work/src"
	# copied, so that no run leaves anything in the source tree
	tar -C "$top" --exclude=./.git --exclude=./.cache --exclude=./.built-for --exclude='*.o' --exclude='*.bc' --exclude='*.so' \
		--exclude=./results --exclude=./tmp_check --exclude=./output_iso -cf - . | tar -C "$work/src" -xf -
	if [ "$(id -u)" = 0 ]; then
		user=postgres
		id "$user" >/dev/null 2>&1 || user=nobody
		chown -R "$user" "$work"
	fi
	cd "$work"
}

as_user() {
	if [ "$(id -u)" = 0 ]; then
		runuser -u "$user" -- env HOME="$work" USER="$user" LOGNAME="$user" "$@"
	else
		"$@"
	fi
}

# --- build ------------------------------------------------------------------

# further variables of make
build_options=()
# a directory that keeps objects from one run to the next, if any
objects=

# Prints the settings with which a server finds the extension below $work/inst;
# nothing if it has no such setting (releases up to 17 other than Debian's).
destination_settings() {
	local destdir=$work/inst settings
	settings=$("$("$PG_CONFIG" --bindir)/postgres" --describe-config | cut -f 1)
	if grep -qx extension_control_path <<<"$settings"; then
		say "extension_control_path = '$destdir$("$PG_CONFIG" --sharedir):\$system'"
		say "dynamic_library_path = '$destdir$("$PG_CONFIG" --pkglibdir):\$libdir'"
	elif grep -qx extension_destdir <<<"$settings"; then
		say "extension_destdir = '$destdir'"
		say "dynamic_library_path = '$destdir$("$PG_CONFIG" --pkglibdir):\$libdir'"
	fi
}

# Installs below $work/inst and writes $work/server.conf, with which a server
# finds the extension there.  Only if the server has no such setting is the
# system's own directory written to.
build_and_install() {
	local destdir=$work/inst
	destination_settings >"$work/server.conf"
	[ -s "$work/server.conf" ] || destdir=
	# make finds out which of them are still right
	if [ -n "$objects" ] && [ -f "$objects/.built-for" ]; then
		cp -p "$objects/.built-for" "$work/src/"
		cp -p "$objects"/*.o "$work/src/src/"
		[ "$(id -u)" != 0 ] || chown -R "$user" "$work/src"
	fi
	# the server's own JIT code is of no use for so short a run
	if ! as_user make -s -j"$(nproc)" -C "$work/src" PG_CONFIG="$PG_CONFIG" with_llvm=no "${build_options[@]}" all >"$work/build.log" 2>&1 ||
		! as_user make -s -C "$work/src" PG_CONFIG="$PG_CONFIG" with_llvm=no "${build_options[@]}" DESTDIR="$destdir" install >>"$work/build.log" 2>&1; then
		cat "$work/build.log" >&2
		[ -n "$destdir" ] || say "This server can only use extensions of its own installation, which is not writable: run 'make install' as its owner." >&2
		die "Could not build the extension."
	fi
	# warnings are for whoever reads the output
	cat "$work/build.log"
	if [ -n "$objects" ] && mkdir -p "$objects" 2>/dev/null && [ -w "$objects" ]; then
		rm -f "$objects"/*.o
		cp -p "$work/src/.built-for" "$work/src/src/"*.o "$objects/"
	fi
}

# --- server -----------------------------------------------------------------

start_server() {
	bindir=$("$PG_CONFIG" --bindir)
	# a socket's path has to be short, whatever TMPDIR is
	sock=$(mktemp -d /tmp/optout.XXXXXX)
	[ "$(id -u)" != 0 ] || chown "$user" "$sock"
	as_user "$bindir/initdb" -D "$work/data" -N -A trust -U postgres --no-locale -E UTF8 >"$work/initdb.log"
	{
		cat "$work/server.conf"
		say "listen_addresses = ''"
		say "unix_socket_directories = '$sock'"
		say "fsync = off"
		cat
	} >>"$work/data/postgresql.conf"
	as_user "$bindir/pg_ctl" -s -w -D "$work/data" -l "$work/server.log" start >/dev/null || {
		cat "$work/server.log" >&2
		die "Could not start the server."
	}
}

stop_server() {
	as_user "$bindir/pg_ctl" -s -m immediate -D "$work/data" stop >/dev/null 2>&1 || true
	rm -rf "$sock"
}

# --- tests ------------------------------------------------------------------

passed=0
failed=0
# what else goes into the tests' environment, and to pg_regress
environment=()
regress_options=

# suite NAME CONFIGURATION MAKE-VARIABLE...: one kind of test through "make
# installcheck".
suite() {
	local dir=$work/suite status=0
	say ""
	say "== $1"
	run_suite "$dir" "${@:2}" 2>&1 | tee "$dir.log" || status=1
	count_suite "$dir" "$status"
}

# begin_suite ...: the same beside what comes next, until end_suites shows and
# counts what has been begun.
begun=()
begin_suite() {
	local dir=$work/suite${#begun[@]}
	run_suite "$dir" "${@:2}" >"$dir.log" 2>&1 &
	begun+=("$! $1")
}

end_suites() {
	local i status
	for i in "${!begun[@]}"; do
		status=0
		wait "${begun[i]%% *}" || status=1
		say ""
		say "== ${begun[i]#* }"
		# without what pg_regress has to say of its server
		grep -vE '^(=====|(CREATE|ALTER) DATABASE$|\+\+\+|# (using|running|initializing|creating))|^running on|^$' "$work/suite$i.log" || true
		count_suite "$work/suite$i" "$status"
	done
	begun=()
}

# In a copy of the sources, for that is where the makefiles leave what tests print.
run_suite() {
	local dir=$1 conf=$work/$2.conf
	shift 2
	rm -rf "$dir"
	cp -Rp "$work/src" "$dir"
	as_user env "${environment[@]}" TEMP_CONFIG="$conf" make -s -C "$dir" PG_CONFIG="$PG_CONFIG" with_llvm=no installcheck \
		EXTRA_REGRESS_OPTS="--temp-instance=$dir/instance --temp-config=$conf $regress_options" "$@"
}

# What failed by name, and of TAP tests what was expected, so that the last lines of a
# long log tell.
list_failures() {
	local dir=$1
	sed -n -e 's/^not ok [0-9]* *[-+] \([^ ]*\).*/\1/p' -e 's/^\(test\)\{0,1\} *\([^ ]*\) *\.\.\. FAILED.*/\2/p' \
		-e 's|^test/t/\(.*\.pl\) *(Wstat.*|\1|p' "$dir.log"
	awk '/\) not ok / { n = 10; name = FILENAME; sub(/.*regress_log_/, "", name); print name ":" }
		n-- > 0 { sub(/^\[[^]]*\]\([^)]*\) */, ""); if (/^not ok|^#/) print "  " $0 }' \
		"$dir"/tmp_check/log/regress_log_* 2>/dev/null || true
}

# say_failures: of all suites so far.
say_failures() {
	[ ! -s "$work/failures" ] || { say "Failed:"; sed 's/^/  /' "$work/failures"; say ""; }
}

# Counts what the last summary says; a suite that ends without one has failed.
count_suite() {
	local dir=$1 bad=$2 log=$1.log all
	# "All 12 tests passed", "1 of 12 tests failed", "Files=3, Tests=41"
	all=$(sed -n -e 's/.*All \([0-9]*\) tests passed.*/\1/p' \
		-e 's/.* of \([0-9]*\) tests failed.*/\1/p' -e 's/^Files=.*Tests=\([0-9]*\),.*/\1/p' "$log" | tail -n 1)
	if [ "$bad" = 1 ]; then
		bad=$(sed -n -e 's/[^0-9]*\([0-9]*\) of [0-9]* tests failed.*/\1/p' \
			-e 's/.*Failed \([0-9]*\)\/[0-9]* subtests.*/\1/p' "$log" | awk '{ all += $1 } END { if (NR) print all }')
		bad=${bad:-1}
		[ ! -f "$dir/regression.diffs" ] || cat "$dir/regression.diffs"
		# why a TAP test failed, its servers' logs may say
		sed -n 's|^test/t/\(.*\)\.pl *(Wstat.*|\1|p' "$log" | while read -r name; do
			tail -n 20 "$dir"/tmp_check/log/{regress_log_"$name","$name"_*.log} 2>/dev/null || true
		done
		list_failures "$dir" >>"$work/failures"
		say "What was printed is in $dir: results, output_iso, tmp_check."
	elif [ -z "$all" ]; then
		bad=1
	fi
	passed=$((passed + (${all:-0} > bad ? ${all:-0} - bad : 0)))
	failed=$((failed + bad))
}
