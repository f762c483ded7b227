# The shared filter and the memo give no stale answer: rows that come while the
# trigger is disabled, restores, crashes, prepared transactions, copied databases,
# rewritten, truncated and recreated tables.  A session that has filter and memo
# loaded, a new one and the table itself must agree at each step.
#
# Bits are never cleared, so each step that writes rows behind the filter's back
# needs users who have not been opted out since the server started.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {},
	"shared_preload_libraries = 'optout'\nmax_prepared_transactions = 10\nautovacuum = off\n");

my $discarded = q{SELECT COALESCE(string_agg(u, ' ' ORDER BY u), '-')
	FROM unnest('{a,b,c,d,e,f,g,h,i,j,k,l,m,n,kept}'::text[]) AS u WHERE NOT optout.accepts(u)};
my $shared_filter = 'SELECT shared_filter FROM optout.status';
my $old;

sub connect_old
{
	$old->quit if defined $old;
	$old = OptoutTest::Session->new($node);

	# twice, so that the memo answers
	$old->query($discarded) for 1 .. 2;
}

# What is discarded now, as the table, a new session and the old one see it; and
# whether the filter is in use.
sub check
{
	my ($expected, $what, %params) = @_;
	my $status = $params{status} // 'ready';

	is($node->safe_psql('postgres', "SET optout.filter = off; $discarded"), $expected, "$what: table");
	is($old->query($discarded), $expected, "$what: old session");
	is($node->safe_psql('postgres', $discarded), $expected, "$what: new session");
	is($old->query($shared_filter), $status, "$what: status");
	is($node->safe_psql('postgres', 'SELECT optout.verify()'), '0', "$what: verify");
}

$node->safe_psql('postgres', q{
	CREATE EXTENSION optout;
	SELECT optout.enroll('{a,b,c,d,e,f,g,h,i,j,k,l,m,n,kept}'::text[]);
	SELECT optout.opt_out('a')});
connect_old();
check('a', 'one opted out');
is($node->safe_psql('postgres', 'SELECT false_positive_rate FROM optout.status'), '0', 'as good as no false positives');

# the filter really answers, and so does the memo
my $lookups = 'SELECT lookups_filter, lookups_cache + lookups_memo, lookups_table FROM optout.status';
my @before = split /\|/, $node->safe_psql('postgres', $lookups);
$old->query($discarded) for 1 .. 3;
my @after = split /\|/, $node->safe_psql('postgres', $lookups);
is("$after[0] $after[1] $after[2]", join(' ', $before[0] + 42, $before[1] + 3, $before[2]),
	'filter answers for those never opted out, cache or memo for the other');

$node->safe_psql('postgres', "SELECT optout.opt_out('b'), optout.opt_in('a')");
check('b', 'opted in and out');
$node->safe_psql('postgres', "SELECT optout.forget('b', force => true)");
check('-', 'forgotten');

#
# Rows written while the trigger is disabled
#
my $insert = 'INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by) VALUES';
my $disable = 'ALTER TABLE optout.opt_out_period DISABLE TRIGGER ALL';
my $enable = 'ALTER TABLE optout.opt_out_period ENABLE ALWAYS TRIGGER optout_filter';

$node->safe_psql('postgres', "BEGIN; $disable; $insert ('default', 'c', now(), 'x'); $enable; COMMIT");
check('c', 'disabled in one transaction');

$node->safe_psql('postgres', $disable);
check('c', 'disabled', status => 'not used');
$node->safe_psql('postgres', "$insert ('default', 'd', now(), 'x')");
check('c d', 'written while disabled', status => 'not used');
$node->safe_psql('postgres', "DELETE FROM optout.opt_out_period WHERE user_id = 'c'");
check('d', 'deleted while disabled', status => 'not used');
$node->safe_psql('postgres', $enable);
check('d', 'enabled again');

$node->safe_psql('postgres', "BEGIN; $disable; $insert ('default', 'e', now(), 'x'); $enable; ROLLBACK");
check('d', 'rolled back');
$node->safe_psql('postgres', qq{
	BEGIN; SAVEPOINT s; $disable; $insert ('default', 'e', now(), 'x'); $enable; $discarded; ROLLBACK TO s;
	$disable; $insert ('default', 'f', now(), 'x'); $enable; COMMIT});
check('d f', 'rolled back to a savepoint, then again');

# twice within a transaction, with look-ups in between
is( $node->safe_psql('postgres', qq{
		BEGIN; $disable; $insert ('default', 'g', now(), 'x'); $enable; $discarded;
		$disable; $insert ('default', 'h', now(), 'x'); $enable; $discarded; COMMIT}),
	"d f g\nd f g h", 'twice within a transaction');
check('d f g h', 'twice within a transaction');
$node->safe_psql('postgres', 'DELETE FROM optout.opt_out_period');
check('-', 'all deleted');

# a trigger that no longer fires always is not trusted
$node->safe_psql('postgres', 'ALTER TABLE optout.opt_out_period ENABLE TRIGGER optout_filter');
check('-', 'trigger fires on origin only', status => 'not used');
$node->safe_psql('postgres', "SET session_replication_role = replica; $insert ('default', 'i', now(), 'x')");
check('i', 'written by a replica', status => 'not used');
$node->safe_psql('postgres', $enable);
check('i', 'trigger fires always again');
$node->safe_psql('postgres', "SET session_replication_role = replica; $insert ('default', 'j', now(), 'x')");
check('i j', 'written by a replica, trigger fires always');

# organisations are apart, in the memo, too
$old->query("SELECT optout.accepts('i', 'acme'), optout.accepts('i')") for 1 .. 2;
$node->safe_psql('postgres', "SELECT optout.enroll('k', 'acme'), optout.opt_out('k', 'acme')");
is($old->query("SELECT optout.accepts('k', 'acme'), optout.accepts('k')") , 'f|t', 'organisations') for 1 .. 2;
$node->safe_psql('postgres', "SELECT optout.forget('k', 'acme', true)");

# pg_restore
$node->command_ok(
	[
		'pg_dump', '-Fc', '--data-only', '-f', "$PostgreSQL::Test::Utils::tmp_check/state.dump",
		'-t', 'optout.opt_out_period', '-e', 'optout', $node->connstr('postgres')
	], 'dumped');
for my $mode ([ '--disable-triggers' ], [ '--disable-triggers', '--single-transaction' ], [])
{
	$node->safe_psql('postgres', 'DELETE FROM optout.opt_out_period');
	$node->restart;
	connect_old();
	check('-', "before pg_restore @$mode");
	$node->command_ok(
		[
			'pg_restore', '--data-only', @$mode, '-d', $node->connstr('postgres'),
			'-t', 'opt_out_period', "$PostgreSQL::Test::Utils::tmp_check/state.dump"
		], "pg_restore @$mode");
	# pg_restore leaves triggers that fire on origin only
	check('i j', "pg_restore @$mode", status => @$mode ? 'not used' : 'ready');
	$node->safe_psql('postgres', $enable);
	check('i j', "pg_restore @$mode, trigger fires always");
}

#
# The table itself
#
for my $command ('VACUUM FULL optout.opt_out_period', 'CLUSTER optout.opt_out_period USING opt_out_period_pkey',
	'REINDEX TABLE optout.opt_out_period', 'ANALYZE optout.opt_out_period')
{
	$node->safe_psql('postgres', $command);
	check('i j', $command);
}
$node->safe_psql('postgres', 'TRUNCATE optout.opt_out_period');
check('-', 'TRUNCATE');
$node->safe_psql('postgres', "BEGIN; SELECT optout.opt_out('c'); TRUNCATE optout.opt_out_period; ROLLBACK; SELECT optout.opt_out('d')");
check('d', 'TRUNCATE rolled back');
$node->safe_psql('postgres', q{
	DROP EXTENSION optout; CREATE EXTENSION optout;
	ALTER TABLE optout.opt_out_period DISABLE TRIGGER ALL;
	INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by) VALUES ('default', 'l', now(), 'x');
	ALTER TABLE optout.opt_out_period ENABLE ALWAYS TRIGGER optout_filter;
	SELECT optout.enroll('{a,b,c,d,e,f,g,h,i,j,k,l,m,n,kept}'::text[]), optout.opt_out('e')});
check('e l', 'DROP and CREATE EXTENSION');

# without its trigger, and with one made anew
$node->safe_psql('postgres', qq{
	DROP TRIGGER optout_filter ON optout.opt_out_period; $insert ('default', 'm', now(), 'x')});
check('e l m', 'trigger dropped', status => 'not used');
$node->safe_psql('postgres', qq{
	CREATE TRIGGER optout_filter AFTER INSERT OR UPDATE OR DELETE ON optout.opt_out_period
		FOR EACH ROW EXECUTE FUNCTION optout.add_to_filter();
	$enable});
check('e l m', 'trigger created again');
$node->safe_psql('postgres', 'DROP EXTENSION optout; CREATE EXTENSION optout');
$node->safe_psql('postgres', "SELECT optout.enroll('{a,b,c,d,e,f,g,h,i,j,k,l,m,n,kept}'::text[]), optout.opt_out('a')");
check('a', 'again');

#
# Other databases: the same users, opted out elsewhere
#
$old->quit;
undef $old;
$node->safe_psql('template1', 'CREATE DATABASE copied TEMPLATE postgres');
connect_old();
is($node->safe_psql('copied', $discarded), 'a', 'copied database');
$node->safe_psql('copied', "SELECT optout.opt_out('b'), optout.opt_in('a')");
check('a', 'opted out in the copy only');
is($node->safe_psql('copied', $discarded), 'b', 'copied database has its own');
is($node->safe_psql('copied', 'SELECT optout.verify()'), '0', 'copied database: verify');

#
# Restarts and prepared transactions
#
$node->safe_psql('postgres', "BEGIN; SELECT optout.opt_out('c'); PREPARE TRANSACTION 'out'");
check('a', 'prepared');
$node->restart;
connect_old();
check('a', 'prepared, restarted');
$node->safe_psql('postgres', "COMMIT PREPARED 'out'");
check('a c', 'committed after the restart');
$node->safe_psql('postgres', "BEGIN; SELECT optout.opt_in('a'), optout.opt_out('d'); PREPARE TRANSACTION 'both'");
$node->stop('immediate');
$node->start;
connect_old();
check('a c', 'prepared, crashed');
$node->safe_psql('postgres', "COMMIT PREPARED 'both'");
check('c d', 'committed after the crash');

# a killed backend takes the shared memory with it
$node->append_conf('postgresql.conf', 'restart_after_crash = on');
$node->reload;
my $victim = OptoutTest::Session->new($node);
$victim->query("BEGIN; SELECT optout.opt_out('e')");
kill 'KILL', $victim->pid;
$victim->quit;
$node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = " . $victim->pid . ')');
connect_old();
check('c d', 'kill -9');
$node->safe_psql('postgres', "SELECT optout.opt_out('e')");
check('c d e', 'kill -9, then opted out');

$old->quit;
$node->stop;
done_testing();
