# A transaction that asks holds a lock with which nobody can get rows past the filter
# meanwhile, instead of looking for that with each row.  Where it cannot have the
# lock at once, it looks.  Ids of every type, organizations and times are answered
# alike by filter and table.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', {},
	"shared_preload_libraries = 'optout'\nautovacuum = off\nmax_prepared_transactions = 5\n");
my $state = 'optout.opt_out_period';
my $put = "INSERT INTO $state (organization, user_id, opted_out_at, opted_out_by) VALUES ('default', '%s', now(), 'x')";
my $unseen = "BEGIN; ALTER TABLE $state DISABLE TRIGGER optout_filter; $put; ALTER TABLE $state ENABLE ALWAYS TRIGGER optout_filter; COMMIT";
my $modes = "SELECT string_agg(DISTINCT mode, ' ' ORDER BY mode) FROM pg_locks WHERE pid = pg_backend_pid() AND relation = '$state'::regclass AND mode LIKE 'Row%'";
my $waits = sub { my ($session) = @_; return $node->safe_psql('postgres', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = " . $session->pid) };

$node->safe_psql('postgres', q{
	CREATE EXTENSION optout; SELECT optout.enroll('{u1,u2,u3,u4}'::text[]);
	CREATE TABLE event (user_id text); SELECT optout.guard('event')});
my ($asking, $late, $altering, $settling) = map { OptoutTest::Session->new($node) } 1 .. 4;

#
# Who has the lock, and who comes while somebody waits for it
#
for my $how ([ "SELECT optout.accepts('%s')", 't', 'f' ], [ "INSERT INTO event VALUES ('%s') RETURNING 'stored'", 'stored', '' ])
{
	my ($ask, $kept, $discarded) = @$how;
	my $u = $ask =~ /INSERT/ ? 'g' : 'w';

	is($asking->query('BEGIN; ' . sprintf($ask, "${u}1") . "; $modes"), "$kept\nRowExclusiveLock", "$ask: has the lock");
	$altering->begin(sprintf $unseen, "${u}1");
	$altering->wait_for_lock($node);
	is($asking->query(sprintf $ask, "${u}1"), $kept, "$ask: nobody gets past the filter meanwhile");
	is($late->query('BEGIN; ' . sprintf($ask, "${u}1") . "; $modes"), "$kept\nRowShareLock", "$ask: does not wait for who waits");
	is($waits->($altering), 't', "$ask: who alters the table still waits");
	$asking->query('COMMIT');
	is(($altering->finish)[1], '', "$ask: then it is done");
	is($late->query(sprintf $ask, "${u}1"), $discarded, "$ask: whoever has no lock looks with each row");

	# both kinds are waited for
	$settling->begin('CALL optout.settle()');
	$settling->wait_for_lock($node);
	$late->query('COMMIT');
	is(($settling->finish)[1], '', "$ask: settle() has waited");
	is($late->query('BEGIN; ' . sprintf($ask, "${u}1") . "; $modes; COMMIT"), ($discarded eq '' ? '' : "$discarded\n") . 'RowExclusiveLock', "$ask: has it again");
}

# What holds the lock for long, a prepared transaction, is not waited for, nor does
# what it has done go unnoticed.
$altering->query("BEGIN; ALTER TABLE $state DISABLE TRIGGER optout_filter; " . sprintf($put, 'p1') . "; ALTER TABLE $state ENABLE ALWAYS TRIGGER optout_filter; PREPARE TRANSACTION 'p'");
is($late->query("BEGIN; SELECT optout.accepts('p1'); $modes"), "t\nRowShareLock", 'prepared: not waited for');
$altering->query("COMMIT PREPARED 'p'");
is($late->query("SELECT optout.accepts('p1'); COMMIT"), 'f', 'prepared: noticed within the transaction');

# TRUNCATE and DROP wait likewise.
$node->safe_psql('postgres', "SELECT optout.opt_out('u1')");
is($asking->query("BEGIN; SELECT optout.accepts('u1'), optout.accepts('u2')"), 'f|t', 'before TRUNCATE');
$altering->begin("TRUNCATE $state");
$altering->wait_for_lock($node);
is($asking->query("SELECT optout.accepts('u1'), optout.accepts('u2')"), 'f|t', 'TRUNCATE waits');
$asking->query('COMMIT');
$altering->finish;
is($asking->query("SELECT optout.accepts('u1'), optout.accepts('u2')"), 't|t', 'after TRUNCATE');

#
# The session's own doing, within the transaction that has the lock
#
is($asking->query("BEGIN; SELECT optout.accepts('u1'); SELECT optout.opt_out('u1'); SELECT optout.accepts('u1'), optout.accepts('u2')"), "t\nt\nf|t", 'own opt-out');
is($asking->query("SAVEPOINT s; SELECT optout.opt_out('u2'); SELECT optout.accepts('u2'); ROLLBACK TO s; SELECT optout.accepts('u2')"), "t\nf\nt", 'undone to a savepoint');
is($asking->query("SAVEPOINT s; ALTER TABLE $state DISABLE TRIGGER optout_filter; " . sprintf($put, 'u3') . "; SELECT optout.accepts('u3'); ROLLBACK TO s; SELECT optout.accepts('u3')"), "f\nt", 'own trigger disabled, undone');
is($asking->query("TRUNCATE $state; SELECT optout.accepts('u1'); ROLLBACK; SELECT optout.accepts('u1')"), "t\nt", 'own TRUNCATE, rolled back');
my $lookups = 'SELECT lookups_filter, lookups_table FROM optout.status';
my @before = split /\|/, $node->safe_psql('postgres', $lookups);
$asking->query("BEGIN; SELECT optout.accepts('u4'); SET LOCAL optout.filter = off; SELECT optout.accepts('u4') FROM generate_series(1, 10); COMMIT");
my @after = split /\|/, $node->safe_psql('postgres', $lookups);
is(($after[0] - $before[0]) . ' ' . ($after[1] - $before[1]), '1 10', 'optout.filter = off within the transaction: the table answers');
is($asking->query("BEGIN; SELECT optout.accepts('u4'); SET LOCAL optout.organization = 'acme'; SELECT optout.accepts('u4'); SELECT optout.opt_out('u4', 'default'); SELECT optout.accepts('u4'); SET LOCAL optout.organization = 'default'; SELECT optout.accepts('u4'); ROLLBACK"),
	"t\nt\nt\nt\nf", 'another organization within the transaction');

# what can be no organization is an error, however often another was named before
for my $name (q{''}, q{'*'}, q{repeat('x', 1025)})
{
	like($asking->query_fails("SELECT optout.accepts('u1', 'acme'), optout.accepts('u1', $name)"), qr/ERROR:  22023/, "organization $name");
}

#
# Ids of every type, organizations and times: filter and table agree.
#
$node->safe_psql('postgres', q{
	CREATE TABLE sample AS
	SELECT n, md5(n::text)::uuid AS u, (n * 1000003 % 2000000) - 1000000 AS i, ((n * 7919 % 60000) - 30000)::int2 AS s,
		   CASE n WHEN 1 THEN '-9223372036854775808'::bigint WHEN 2 THEN '9223372036854775807'::bigint ELSE n * 1000000000007 * (n % 2 * 2 - 1) END AS b,
		   rpad(n::text, 30, 'x') AS t, ('v' || n)::varchar(40) AS v, ('c' || n)::char(20) AS c, ('n' || n)::name AS m
	  FROM generate_series(1, 400) n;
	INSERT INTO optout.product_user (organization, user_id)
	SELECT o, id FROM sample, unnest('{default,acme}'::text[]) o,
		   LATERAL (VALUES (u::text), (i::text), (s::text), (b::text), (t), (v::text), (c::text), (m::text)) AS ids(id)
		ON CONFLICT DO NOTHING;
	SELECT optout.opt_out(array_agg(DISTINCT id)), optout.opt_out(array_agg(DISTINCT id) FILTER (WHERE n % 10 = 0), 'acme')
	  FROM sample, LATERAL (VALUES (u::text), (i::text), (s::text), (b::text), (t), (v::text), (c::text), (m::text)) AS ids(id)
	 WHERE n % 5 = 0;
	SELECT optout.opt_in(array_agg(DISTINCT id))
	  FROM sample, LATERAL (VALUES (u::text), (i::text), (s::text), (b::text), (t), (v::text), (c::text), (m::text)) AS ids(id)
	 WHERE n % 20 = 0});
my $then = $node->safe_psql('postgres', 'SELECT min(opted_in_at) - (min(opted_in_at) - max(opted_out_at)) / 2 FROM optout.opt_out_period WHERE opted_in_at IS NOT NULL');
my $answers = join ' UNION ALL ', map {
	my ($column, $cast) = @$_;
	map {
		my ($organization, $at) = @$_;
		"SELECT '$column ' || coalesce($organization, '-') || ' ' || coalesce($at, '-'), string_agg(n::text, ' ' ORDER BY n) FROM sample WHERE NOT optout.accepts($column$cast, $organization, $at)"
	} [ 'NULL', 'NULL' ], [ q{'acme'}, 'NULL' ], [ 'NULL', "'$then'" ], [ q{'acme'}, "'$then'" ]
} [ 'u', '' ], [ 'i', '::bigint' ], [ 'b', '' ], [ 't', '' ], [ 'v', '' ];
my $table = $node->safe_psql('postgres', "SET optout.filter = off; $answers");
like($table, qr/\|5 10 15/, 'some are discarded');
is($node->safe_psql('postgres', "BEGIN; SELECT optout.accepts('x'); $answers; COMMIT"), "t\n$table", 'accepts(): filter and table agree');
for my $column ('u', 'i', 's', 'b', 't', 'v', 'c', 'm')
{
	my $guarded = sub {
		my ($setting) = @_;
		return $node->safe_psql('postgres', qq{
			CREATE TABLE guarded AS SELECT n, $column AS id, CASE n % 3 WHEN 0 THEN 'acme' WHEN 1 THEN 'default' END AS o FROM sample LIMIT 0;
			SELECT optout.guard('guarded', 'id', 'o');
			$setting;
			INSERT INTO guarded SELECT n, $column, CASE n % 3 WHEN 0 THEN 'acme' WHEN 1 THEN 'default' END FROM sample;
			SELECT count(*), md5(string_agg(n::text, ' ' ORDER BY n)) FROM guarded;
			DROP TABLE guarded});
	};
	is($guarded->(''), $guarded->('SET optout.filter = off'), "guard by a column like $column: filter and table agree");
}
is($node->safe_psql('postgres', 'SELECT optout.verify()'), '0', 'verify');

$_->quit for $asking, $late, $altering, $settling;
$node->stop;
done_testing();
