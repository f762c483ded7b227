# Dumps of every format, restored into a database where sessions are open that have
# filter and memo loaded with what was there before.  They answer by what has been
# restored; the ledger goes on where it was, the guards guard, and a restore that
# fails halfway in one transaction has never been.  pg_upgrade loses nothing either.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $settings = "shared_preload_libraries = 'optout'\nautovacuum = off\nmax_prepared_transactions = 5\n";
my $source = new_server('source', {}, $settings);
my $target = new_server('target', {}, $settings);
my $dir = PostgreSQL::Test::Utils::tempdir;
my @open;

$_->safe_psql('postgres', 'CREATE DATABASE events; CREATE ROLE "the admin"; CREATE ROLE ingest') for $source, $target;
$source->safe_psql('events', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll('{u1,u2,u3,u4,u19,u20}'::text[]);
	SELECT optout.grant_authority('"the admin"', 'default', 'administer');
	GRANT EXECUTE ON FUNCTION optout.accepts(text, text, timestamptz) TO ingest});
ingest_tables($source, 20, dbname => 'events');

# stored before the opt-outs, and discarded since
$source->safe_psql('events', offer());
$source->safe_psql('events', q{SELECT optout.opt_out('{u1,u2,u3,u4}'::text[], reason => 'dumped'), optout.opt_in('u4')});
my @out = ('u1', 'u2', 'u3');
check_exact($source, \@out, 'source', dbname => 'events');

my $contents = q{
	SELECT * FROM optout.product_user ORDER BY organization, user_id;
	SELECT * FROM optout.opt_out_period ORDER BY organization, user_id, opted_out_at;
	SELECT * FROM optout.discard_ledger ORDER BY organization, hour, slot;
	SELECT organization, role::text, privilege FROM optout.authority ORDER BY 1, 2, 3;
	SELECT * FROM optout.guarded ORDER BY relation::text;
	SELECT user_id, count(*) FROM guarded GROUP BY 1 ORDER BY 1;
	SELECT user_id, count(*) FROM filtered GROUP BY 1 ORDER BY 1;
	SELECT sum(events) FROM offered};
my $expected = $source->safe_psql('events', $contents);

# What the target holds before: the extension, other users opted out, and tables to
# restore into.
sub prepare
{
	my ($kind) = @_;

	# the filter forgets whom it has seen, lest it know those who are restored
	$_->quit for splice @open;
	$target->restart;
	$target->safe_psql('events', 'DROP EXTENSION IF EXISTS optout CASCADE; DROP TABLE IF EXISTS candidate, guarded, filtered, offered');
	$target->safe_psql('events', q{
		CREATE EXTENSION optout;
		SELECT optout.enroll('{u5,u6}'::text[]), optout.opt_out('{u5,u6}'::text[])});
	ingest_tables($target, 20, dbname => 'events');
	@open = map { OptoutTest::Session->new($target, dbname => 'events') } 1 .. 2;
	check_exact($target, [ 'u5', 'u6' ], "before $kind", dbname => 'events', sessions => \@open);
	if ($kind eq 'empty')
	{
		$target->safe_psql('events', q{
			SELECT optout.unguard('guarded');
			DROP EXTENSION optout;
			DROP TABLE candidate, guarded, filtered, offered});
	}
	elsif ($kind eq 'data')
	{
		$target->safe_psql('events', q{TRUNCATE candidate, guarded, filtered, offered, optout.discard_ledger});
	}
}

sub check_restored
{
	my ($what, %params) = @_;
	my $contents_now = $target->safe_psql('events', $contents);

	is($contents_now, $params{contents} // $expected, "$what: contents");
	check_exact($target, $params{out} // \@out, $what, dbname => 'events', sessions => \@open);
	is( $target->safe_psql('events', q{
			BEGIN; SET ROLE "the admin"; SELECT optout.opt_out('u20'); RESET ROLE; SELECT optout.accepts('u20'); ROLLBACK}),
		"t\nf", "$what: the administrator administers");
	$open[0]->query(q{SELECT optout.opt_out('u19'), optout.opt_in('u2')});
	check_exact($target, [ grep({ $_ ne 'u2' } @{ $params{out} // \@out }), 'u19' ],
		"$what, then opt-outs", dbname => 'events', sessions => \@open);
}

my %dump;

sub dump_as
{
	my ($name, @options) = @_;

	$dump{$name} = "$dir/$name";
	$source->command_ok([ 'pg_dump', @options, '-f', $dump{$name}, $source->connstr('events') ], "pg_dump @options");
}

sub restore
{
	my ($name, @options) = @_;

	return $name =~ /plain/
	  ? [ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', @options, '-d', $target->connstr('events'), '-f', $dump{$name} ]
	  : [ 'pg_restore', '-e', @options, '-d', $target->connstr('events'), $dump{$name} ];
}

dump_as('plain', '-Fp');
dump_as('plain_clean', '-Fp', '--clean', '--if-exists');
dump_as('plain_inserts', '-Fp', '--rows-per-insert=7');
dump_as('custom', '-Fc');
dump_as('directory', '-Fd', '-j2');
dump_as('tar', '-Ft');
dump_as('custom_data', '-Fc', '--data-only');

#
# Everything, where there is nothing left of what the sessions know.
#
for my $restore ([ 'plain' ], [ 'plain', '-1' ], [ 'plain_inserts' ], [ 'custom' ], [ 'custom', '-1' ],
	[ 'directory', '-j2' ], [ 'tar' ])
{
	my $what = "@$restore, empty";

	prepare('empty');
	$target->command_ok(restore(@$restore), $what);
	check_restored($what);
}

#
# In place of what is there, once those who ingest have ended.
#
for my $restore ([ 'plain_clean' ], [ 'plain_clean', '-1' ], [ 'custom', '--clean', '--if-exists' ],
	[ 'custom', '--clean', '--if-exists', '-1' ], [ 'directory', '--clean', '--if-exists', '-j2' ])
{
	my $what = "@$restore";
	my $in_one = grep { $_ eq '-1' } @$restore;

	prepare('full');

	# it fails at its last step: nothing has changed
	if ($in_one)
	{
		$target->safe_psql('events', q{
			CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$
			DECLARE restored bool := false;
			BEGIN
				IF to_regclass('optout.opt_out_period') IS NOT NULL THEN
					EXECUTE $q$SELECT EXISTS (SELECT FROM optout.opt_out_period WHERE reason = 'dumped')$q$ INTO restored;
				END IF;
				IF restored AND EXISTS (SELECT FROM pg_trigger WHERE tgname = 'optout_guard' AND tgenabled = 'A') THEN
					RAISE 'refused at last';
				END IF;
			END $$;
			CREATE EVENT TRIGGER refuse ON ddl_command_end EXECUTE FUNCTION refuse()});
		command_fails_like(restore(@$restore), qr/refused at last/, "$what: refused");
		$target->safe_psql('events', 'DROP EVENT TRIGGER refuse; DROP FUNCTION refuse()');
		check_exact($target, [ 'u5', 'u6' ], "$what: refused", dbname => 'events', sessions => \@open);
	}

	# somebody ingests, within a transaction and before it
	$open[0]->query('BEGIN; ' . offer());
	my $restoring = IPC::Run::start(restore(@$restore), '>', \my $stdout, '2>', \my $stderr);
	$target->poll_query_until('events', q{SELECT count(*) > 0 FROM pg_locks WHERE NOT granted})
	  or die 'restore does not wait';
	is($open[0]->query(offer()), 'u5 u6 / u5 u6', "$what: goes on while the restore waits")
	  if $in_one;
	$open[0]->query('COMMIT');
	ok($restoring->finish, "$what: restored") or diag($stderr);
	check_restored($what);
}

#
# Data only, beside what is there.  The events of u1, u2 and u3 that were stored
# before their opt-out are kept where triggers are disabled.
#
for my $options ([ '--disable-triggers' ], [ '--disable-triggers', '-1' ], [ '-1' ], [])
{
	my $what = "data only @$options";

	prepare('data');
	if (grep { $_ eq '-1' } @$options)
	{
		# the last table is refused
		$target->safe_psql('events', 'ALTER TABLE offered ADD CONSTRAINT refused CHECK (events < 0)');
		command_fails_like(restore('custom_data', @$options), qr/violates check constraint "refused"/, "$what: refused");
		$target->safe_psql('events', q{
			ALTER TABLE offered DROP CONSTRAINT refused;
			INSERT INTO candidate SELECT 'u' || n FROM generate_series(1, 20) AS n});
		check_exact($target, [ 'u5', 'u6' ], "$what: refused", dbname => 'events', sessions => \@open);
		is($target->safe_psql('events', q{SELECT count(*) FROM optout.opt_out_period WHERE reason = 'dumped'}), '0', "$what: nothing restored");
		$target->safe_psql('events', q{TRUNCATE candidate, guarded, filtered, offered, optout.discard_ledger});
	}
	$target->command_ok(restore('custom_data', @$options), $what);
	my $stored = $target->safe_psql('events', q{SELECT count(*) FROM guarded WHERE user_id IN ('u1', 'u2', 'u3')});
	my $fires = $target->safe_psql('events', 'SELECT fires FROM optout.guarded');
	my $status = $target->safe_psql('events', 'SELECT shared_filter FROM optout.status');

	is("$stored $fires $status", grep({ $_ eq '--disable-triggers' } @$options) ? '3 origin not used' : '0 always ready', "$what: guards");

	# what the guard discards of a dump was stored, and was offered, before
	my $again = $target->safe_psql('events', q{SELECT optout.accepts('u1'), optout.accepts('u4'), optout.accepts('u5')});
	is($again, 'f|t|f', "$what: answers");
	$target->safe_psql('events', q{
		SELECT optout.guard('guarded');
		ALTER TABLE optout.opt_out_period ENABLE ALWAYS TRIGGER optout_filter;
		TRUNCATE guarded, filtered, offered, optout.discard_ledger});
	check_exact($target, [ @out, 'u5', 'u6' ], $what, dbname => 'events', sessions => \@open);
	is($target->safe_psql('events', 'SELECT shared_filter FROM optout.status'), 'ready', "$what: filter");
}
$_->quit for splice @open;

#
# pg_upgrade, from this version to itself
#
SKIP:
{
	my $old = $target;
	my $new = OptoutTest::Server->new('upgraded');
	my ($stdout, $stderr);

	prepare('empty');
	$_->quit for splice @open;
	$old->command_ok(restore('custom'), 'restored for pg_upgrade');
	my $before = $old->safe_psql('events', $contents);

	$new->init;
	$new->append_conf('postgresql.conf', $settings);
	$old->stop;

	# it leaves files where it is started
	my $bindir = $old->config_data('--bindir');
	my $started = IPC::Run::run(
		[ 'pg_upgrade', '--no-sync', '-b', $bindir, '-B', $bindir, '-d', $old->data_dir, '-D', $new->data_dir,
			'-s', $new->host, '-p', $old->port, '-P', $new->port ],
		'>', \$stdout, '2>', \$stderr, init => sub { chdir $dir or die $! });
	skip 'pg_upgrade looks for the library in the installation only', 1
	  if !$started && "$stdout$stderr" =~ /loadable_libraries|could not load library/;
	ok($started, 'pg_upgrade') or diag("$stdout$stderr");
	$new->start;
	is($new->safe_psql('events', $contents), $before, 'upgraded: contents');
	@open = map { OptoutTest::Session->new($new, dbname => 'events') } 1 .. 2;
	check_exact($new, \@out, 'upgraded', dbname => 'events', sessions => \@open);
	is($new->safe_psql('events', 'SELECT shared_filter FROM optout.status'), 'ready', 'upgraded: filter');
	$open[0]->query(q{SELECT optout.opt_out('u19'), optout.opt_in('u2')});
	check_exact($new, [ 'u1', 'u19', 'u3' ], 'upgraded, then opt-outs', dbname => 'events', sessions => \@open);
	is($new->safe_psql('events', q{SET ROLE "the admin"; SELECT optout.opt_in('u19')}), 't', 'upgraded: the administrator administers');
	$_->quit for splice @open;
	$new->safe_psql('events', q{SELECT optout.unguard('guarded'); DROP EXTENSION optout});
	is($new->safe_psql('events', q{SELECT count(*) FROM pg_namespace WHERE nspname = 'optout'}), '0', 'upgraded: can be dropped');
	$new->stop;
}

$source->stop;
done_testing();
