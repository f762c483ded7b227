// orms.js: Sequelize, TypeORM and Objection insert several objects by one call, and
// give each object the key of the row that RETURNING has in the same place.  What
// is told: whose row in the database has the key that each object has got.  Knex
// and Drizzle know no objects, and give the rows.
'use strict';
const { Client, Pool } = require('pg');

const events = ['alice', 'bob', 'carol', 'dave'];
const db = new Client({ user: 'writer' });
const connection = { host: process.env.PGHOST, port: Number(process.env.PGPORT), database: process.env.PGDATABASE, password: process.env.PGPASSWORD };

async function print(way, reported) {
	const { rows: [t] } = await db.query('SELECT * FROM tally()');
	console.log(['orms', way, events.length, reported, t.stored, t.discarded].join(' | '));
}

async function tell(way, objects) {
	const { rows } = await db.query('SELECT id, user_id FROM event');
	const owner = Object.fromEntries(rows.map((r) => [String(r.id), r.user_id]));
	const keys = objects.map((o) => `${o.user_id} ${o.id == null ? 'without key' : owner[String(o.id)] ?? 'nobody'}`);
	await print(way, `keys of: ${keys.join(', ')}`);
}

async function sequelize(table) {
	const { Sequelize, DataTypes } = require('sequelize');
	const orm = new Sequelize(connection.database, 'writer', connection.password, { host: connection.host, port: connection.port, dialect: 'postgres', logging: false });
	const Event = orm.define('Event', {
		id: { type: DataTypes.BIGINT, primaryKey: true, autoIncrement: true }, user_id: DataTypes.TEXT, what: DataTypes.TEXT,
	}, { tableName: table, timestamps: false });
	await tell(`Sequelize bulkCreate, ${table}`, await Event.bulkCreate(events.map((user_id) => ({ user_id })), { returning: true }));
	await orm.close();
}

async function typeorm(table) {
	const { DataSource, EntitySchema } = require('typeorm');
	const Event = new EntitySchema({
		name: 'Event', tableName: table,
		columns: { id: { type: 'bigint', primary: true, generated: 'increment' }, user_id: { type: 'text' }, what: { type: 'text', nullable: true } },
	});
	const orm = await new DataSource({ type: 'postgres', username: 'writer', entities: [Event], ...connection }).initialize();
	await tell(`TypeORM save, ${table}`, await orm.getRepository(Event).save(events.map((user_id) => ({ user_id }))));
	await orm.destroy();
}

const openKnex = () => require('knex')({ client: 'pg', connection: { user: 'writer', ...connection } });

async function objection(table) {
	const { Model } = require('objection');
	const knex = openKnex();
	class Event extends Model {
		static get tableName() { return table; }
	}
	await tell(`Objection insert, ${table}`, await Event.query(knex).insert(events.map((user_id) => ({ user_id }))));
	await knex.destroy();
}

const rows = events.map((user_id) => ({ user_id }));
const names = (inserted) => `rows of: ${inserted.map((r) => r.user_id).join(', ')}`;

async function knex(table) {
	const knex = openKnex();
	await print(`Knex insert, ${table}`, `rowCount ${(await knex(table).insert(rows)).rowCount}`);
	await print(`Knex insert returning, ${table}`, names(await knex(table).insert(rows).returning('user_id')));
	await knex.destroy();
}

async function drizzle(table) {
	const { drizzle } = require('drizzle-orm/node-postgres');
	const { pgTable, text } = require('drizzle-orm/pg-core');
	const pool = new Pool({ user: 'writer' });
	const event = pgTable(table, { user_id: text() });
	await print(`Drizzle insert, ${table}`, `rowCount ${(await drizzle(pool).insert(event).values(rows)).rowCount}`);
	await print(`Drizzle insert returning, ${table}`, names(await drizzle(pool).insert(event).values(rows).returning({ user_id: event.user_id })));
	await pool.end();
}

(async () => {
	await db.connect();
	for (const orm of [sequelize, typeorm, objection, knex, drizzle])
		for (const table of ['event', 'event_in'])
			await orm(table);
	await db.end();
})().catch((error) => { console.error(error); process.exit(1); });
