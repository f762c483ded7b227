// node.js: node-postgres and pg-copy-streams.
'use strict';
const { Client, Pool } = require('pg');
const { from: copyFrom } = require('pg-copy-streams');
const { Readable } = require('stream');
const { pipeline } = require('stream/promises');

const events = ['alice', 'bob', 'carol', 'dave'];
const print = (...columns) => console.log(['node', ...columns].join(' | '));

async function connect(user) {
	const db = new Client({ user });
	await db.connect();
	return db;
}

async function writers() {
	const db = await connect('writer');
	const tell = async (way, reported) => {
		const { rows: [t] } = await db.query('SELECT * FROM tally()');
		print(way, events.length, reported, t.stored, t.discarded);
	};
	const copy = async (sql) => {
		const stream = db.query(copyFrom(sql));
		await pipeline(Readable.from(events.map((user) => `${user}\topened\n`)), stream);
		return `rowCount ${stream.rowCount}`;
	};

	await tell('COPY, guard', await copy('COPY event (user_id, what) FROM STDIN'));
	await tell('COPY, WHERE', await copy('COPY unguarded (user_id, what) FROM STDIN WHERE optout.accepts(user_id)'));

	const counts = [];
	for (const user of events)
		counts.push((await db.query('INSERT INTO event (user_id) VALUES ($1)', [user])).rowCount);
	await tell('INSERT one by one', `rowCount ${counts.join(' ')}`);

	let result = await db.query('INSERT INTO event (user_id) SELECT unnest($1::text[])', [events]);
	await tell('INSERT several', `rowCount ${result.rowCount}`);
	result = await db.query('INSERT INTO event (user_id) VALUES ($1), ($2), ($3), ($4) RETURNING user_id', events);
	await tell('INSERT several RETURNING', `rowCount ${result.rowCount}, rows ${result.rows.map((r) => r.user_id).join(' ')}`);
	result = await db.query('INSERT INTO event (user_id) VALUES ($1) RETURNING user_id', events.slice(0, 1));
	const first = `${result.rows[0]}`;
	result = await db.query('INSERT INTO event (user_id) SELECT unnest($1::text[]) RETURNING user_id', [events.slice(1)]);
	await tell('INSERT one RETURNING', `rows[0] ${first}`);
	await db.end();
}

async function readers() {
	const db = await connect('acme_reader');
	const nameOf = Object.fromEntries((await db.query('SELECT oid, typname FROM pg_type')).rows.map((t) => [t.oid, t.typname]));
	const kind = (value) => value === undefined ? 'null' : value instanceof Date ? 'Date' : typeof value;
	for (const view of ['user_list', 'opt_out_list', 'opt_out_history', 'discards', 'guarded', 'status']) {
		const { fields, rows } = await db.query(`SELECT * FROM optout.${view}`);
		const columns = fields.map(({ name, dataTypeID }) =>
			`${name} ${nameOf[dataTypeID]} ${kind(rows.map((r) => r[name]).find((v) => v !== null))}`);
		const of = fields[0].name === 'organization' ? `of ${[...new Set(rows.map((r) => r.organization))]}` : `${rows.length} rows`;
		print(view, of, columns.join(', '));
	}
	const { rows } = await db.query("SELECT opted_out_at, extract(epoch FROM opted_out_at)::float8 AS epoch FROM optout.opt_out_list");
	print('time', rows.every((r) => Math.floor(r.epoch * 1000) === r.opted_out_at.getTime()) ? 'the same instant, to the millisecond' : 'another instant');
	await db.end();
}

// A pooled connection, and the same prepared statement of it, under several roles.
async function roles() {
	const pool = new Pool({ user: 'app', max: 1 });
	const seen = [];
	for (const role of ['SET ROLE acme_reader', 'SET ROLE globex_reader', 'RESET ROLE', 'SET ROLE acme_reader']) {
		await pool.query(role);
		const answers = new Set();
		for (let i = 0; i < 7; i++) {
			const { rows } = await pool.query({
				name: 'users', text: "SELECT user_id FROM optout.user_list WHERE user_id <> $1 ORDER BY user_id", values: ['nobody'],
			});
			answers.add(rows.map((r) => r.user_id).join(' '));
		}
		seen.push(`${role}: ${[...answers].join(' or ') || 'none'}`);
	}
	const { rows: [p] } = await pool.query("SELECT generic_plans > 0 AS generic FROM pg_prepared_statements WHERE name = 'users'");
	print('pooled, prepared', ...seen, `generic plan ${p.generic}`);
	await pool.end();
}

(async () => {
	await writers();
	await readers();
	await roles();
})().catch((error) => { console.error(error); process.exit(1); });
