# optout: keep individual users out of usage tracking
#
#   make demo        see it work, on a throw-away server; installs what is missing
#   make test        run every test, likewise
#   make matrix      the same on every PostgreSQL release that can be had
#   make check-hardened   the same with assertions, sanitizers and valgrind
#   make bench       time it beside other ways to do the same; ROWS='COPY' for some rows only
#   make soak        look for leaks for MINUTES=5 or longer
#   make soak-planted   whether that finds faults that are planted for it
#   make fuzz        run STATEMENTS=100000 made at random; best on a server with assertions
#   make recipes     try the recipes of doc/recipes.md with the other programs they take
#   make clients     real clients and drivers: what each reports of a discarded event
#   make dist        make the archive for PGXN
#   make, make install, make installcheck   as with any PGXS extension

# It can be built elsewhere, too: make -f .../Makefile
here := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
files = $(patsubst $(here)/%,%,$(sort $(wildcard $(addprefix $(here)/,$(1)))))

EXTENSION = optout
EXTVERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" $(here)/optout.control)
MODULE_big = optout
OBJS = $(patsubst %.c,%.o,$(call files,src/*.c))
# sql/optout.sql is the specification, from which the install script is built
# (with its full path: built elsewhere, one among the sources must not stand for it)
DATA_built = $(CURDIR)/sql/optout--$(EXTVERSION).sql
DATA = sql/optout--1.0.sql $(call files,sql/*--*--*.sql) sql/optout-page.sql
DOCS = $(call files,doc/*)
PG_CPPFLAGS = -DOPTOUT_VERSION='"$(EXTVERSION)"'
# the same bytes wherever it is built; what is not exported cannot be replaced,
# so calls within a file can be inlined
PG_CFLAGS = $(call if_taken,-ffile-prefix-map=$(CURDIR)=. -fno-semantic-interposition)
if_taken = $(foreach flag,$(1),$(shell $(CC) -Werror $(flag) -E -x c /dev/null >/dev/null 2>&1 && echo '$(flag)'))
# Linkers of other systems do not take these options.  There, PostgreSQL 16 and
# later have the compiler hide what need not be exported.
ELF_LINK = -Wl,--version-script=$(srcdir)/src/exports.map -Wl,-z,relro,-z,now
SHLIB_LINK = $(if $(filter linux freebsd netbsd openbsd,$(PORTNAME)),$(ELF_LINK))

BUILT_FOR = .built-for

# The examples of each page of the documentation that has any are a test like any
# other, made from the page: doc/limits.md is tested by doc_limits.
PAGE_TESTS = test/sql/readme.sql $(patsubst $(here)/doc/%.md,test/sql/doc_%.sql,$(shell grep -lx '```sql' $(here)/doc/*.md))
REGRESS = $(sort $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql) $(PAGE_TESTS)))
REGRESS_OPTS = --inputdir=test --encoding=UTF8
ISOLATION = $(sort $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test --outputdir=.
TAP_TESTS = 1
PROVE_TESTS = test/t/*.pl
EXTRA_CLEAN = results regression.diffs regression.out output_iso tmp_check $(PAGE_TESTS) $(BUILT_FOR)

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
# Debian's client package has PGXS, but not the headers
ifneq ($(and $(wildcard $(PGXS)),$(wildcard $(shell $(PG_CONFIG) --includedir-server)/postgres.h)),)
include $(PGXS)
# pages of our own, whose names other extensions' may have, too
docmoduledir := extension/$(EXTENSION)
uninstall: uninstall_pages
uninstall_pages:	# PGXS looks for them in a folder doc
	rm -rf '$(DESTDIR)$(docdir)/$(docmoduledir)'
installcheck: $(PAGE_TESTS)
$(OBJS) $(OBJS:.o=.bc): $(wildcard $(here)/src/*.h) $(here)/optout.control $(BUILT_FOR) | $(CURDIR)/src
$(shlib): $(here)/src/exports.map
$(DATA_built): $(here)/sql/optout.sql | $(CURDIR)/sql
	cp $< $@
$(CURDIR)/src $(CURDIR)/sql:
	mkdir -p $@

# the server and the options that objects are made for; changes only when they do,
# so that none made for another server is installed
$(BUILT_FOR): export built_for = $(shell $(PG_CONFIG)) $(CC) $(CPPFLAGS) $(subst $(CURDIR),.,$(CFLAGS)) $(CFLAGS_SL) \
	$(LDFLAGS) $(LDFLAGS_SL) $(SHLIB_LINK)
$(BUILT_FOR): FORCE
	@printf '%s\n' "$$built_for" | cmp -s - $@ || printf '%s\n' "$$built_for" >$@
FORCE:
else
all install installcheck clean:
	@echo "No PostgreSQL server development files found by $(PG_CONFIG)." >&2
	@echo "Install them (Debian and Ubuntu: postgresql-server-dev-NN), or set PG_CONFIG." >&2
	@echo "'make demo' and 'make test' do so themselves." >&2
	@exit 1
endif

test/sql/readme.sql: README.md test/page2sql
	test/page2sql $< > $@

test/sql/doc_%.sql: doc/%.md test/page2sql
	test/page2sql $< > $@

demo:
	@test/demo

test:
	@test/run

matrix:
	@test/lab/matrix

check-hardened:
	@test/lab/hardened

bench:
	@test/lab/bench/run

# the rows for a list of 10 million, which fits no processor's cache
bench-large:
	@test/lab/bench/run large

# the leak hunt of "make test", for longer
soak:
	@test/lab/soak/run

# whether the hunt finds faults
soak-planted:
	@test/lab/soak/planted

fuzz:
	@test/lab/fuzz/run

recipes:
	@test/lab/recipes

clients:
	@test/lab/clients/run

# the archive for PGXN
DISTVERSION = $(shell sed -n '1,/"version"/s/.*"version": "\(.*\)".*/\1/p' META.json)
DISTDIR = .
dist:
	git archive --format=zip --prefix=optout-$(DISTVERSION)/ -o $(DISTDIR)/optout-$(DISTVERSION).zip HEAD

.PHONY: all install installcheck uninstall_pages clean demo test matrix check-hardened bench bench-large soak soak-planted fuzz recipes clients dist FORCE
