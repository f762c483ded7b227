# TimescaleDB, where it is installed beside the server: guards and filter are exact
# on a hypertable, its chunks that are there and those to come.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use OptoutTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $probe = new_server('probe');
my $there = $probe->safe_psql('postgres', q{SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'});
$probe->stop;
plan skip_all => 'not run: TimescaleDB is not installed' if !$there;

my $node = new_server('timescaledb', {}, "shared_preload_libraries = 'timescaledb, optout'\ntimescaledb.telemetry_level = off\nautovacuum = off\n");

sub sql
{
	return $node->safe_psql('postgres', join '; ', @_);
}

sql('SET client_min_messages = error', 'CREATE EXTENSION timescaledb', 'CREATE EXTENSION optout');
note 'TimescaleDB ' . sql(q{SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'});
sql('CREATE TABLE event (user_id text, at timestamptz NOT NULL, way text)',
	q{SELECT create_hypertable('event', 'at')},
	q{INSERT INTO event VALUES ('u1', '2026-01-01', 'before')},
	q{SELECT optout.enroll(array_agg('u' || n)) FROM generate_series(1, 1000) AS n},
	q{SELECT optout.opt_out(array_agg('u' || n)) FROM generate_series(1, 100) AS n},
	q{SELECT optout.guard('event', occurred_at => 'at')});
is(sql('SELECT relation, user_id, organization, occurred_at, fires FROM optout.guarded'), 'event|user_id||at|always', 'a hypertable is listed once');

# into the chunk that is there, and into others that are made for them
my $events = q{SELECT 'u' || n AS user_id, timestamptz '2026-01-01' + n % 10 * interval '7 days' AS at};
sql(qq{INSERT INTO event $events, 'insert' FROM generate_series(1, 1000) AS n});
my $rows = join '', map { "u$_\t2026-0" . ($_ % 3 + 4) . "-01\tcopy\n" } 1 .. 1000;
$node->safe_psql('postgres', "COPY event FROM STDIN;\n$rows\\.\n");
is(sql('SELECT way, count(*) FROM event GROUP BY 1 ORDER BY 1'), "before|1\ncopy|900\ninsert|900", 'guard');
is(sql(q{SELECT count(*) FROM event WHERE way <> 'before' AND substr(user_id, 2)::int <= 100}), '0', "nobody's who is out");
is(sql(q{UPDATE event SET user_id = 'u2' WHERE user_id = 'u999' RETURNING 1}, q{SELECT count(*) FROM event WHERE user_id = 'u999'}), '2', 'an event is nobody else\'s');
is(sql('SELECT sum(discarded) FROM optout.discards'), '202', 'discards');

# Later chunks' triggers do not fire always, as guarded says for all of them; the
# hypertable's brings them along
is(sql('SELECT relation, user_id, organization, occurred_at, fires FROM optout.guarded'), 'event|user_id||at|origin', 'with later chunks, too');
isnt(sql('SELECT optout.repair()'), '0', 'repair');
is(sql('SELECT relation, user_id, organization, occurred_at, fires FROM optout.guarded'), 'event|user_id||at|always', 'repaired');
is(sql(q{SELECT count(*) FROM pg_trigger WHERE tgname = 'optout_guard' AND tgenabled <> 'A'}), '0', 'repaired, each chunk');
is(sql('SELECT optout.repair()'), '0', 'nothing more to repair');
is(sql('SET session_replication_role = replica', qq{INSERT INTO event $events, 'replica' FROM generate_series(1, 1000) AS n},
		q{SELECT count(*) FROM event WHERE way = 'replica'}), '900', 'fires always');
sql(q{DELETE FROM event WHERE way = 'replica'});

# A chunk whose guard somebody has switched off
sql('ALTER TABLE event DISABLE TRIGGER optout_guard');
is(sql('SELECT relation, user_id, organization, occurred_at, fires FROM optout.guarded'), 'event|user_id||at|never', 'switched off');
sql('ALTER TABLE event ENABLE ALWAYS TRIGGER optout_guard');

# Without a guard
sql(q{SELECT optout.unguard('event')}, 'SELECT 1 / (count(*) = 0)::int FROM optout.guarded');
sql('CREATE TABLE staging AS ' . $events . q{, 'accepts' AS way FROM generate_series(1, 1000) AS n});
sql('INSERT INTO event SELECT * FROM staging WHERE optout.accepts(user_id)');
$rows =~ s/copy/where/g;
$node->safe_psql('postgres', "COPY event FROM STDIN WHERE optout.accepts(user_id);\n$rows\\.\n");
is(sql(q{SELECT way, count(*) FROM event WHERE way IN ('accepts', 'where') GROUP BY 1 ORDER BY 1}), "accepts|900\nwhere|900", 'accepts');
is(sql(q{SELECT count(*) FROM event WHERE optout.is_opted_out(user_id)}), '1', 'is_opted_out');
is(sql('SELECT sum(discarded) FROM optout.discards'), '502', 'discards');

$node->stop;
done_testing();
