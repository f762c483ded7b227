// browser.js URL [SCREENSHOT]: a real browser opens the page, opts users out and in as
// somebody would who uses the keyboard or a screen reader, that is, by labels and
// roles; then the database is asked what has become of it.
'use strict';
const { chromium } = require('playwright-core');
const { Client } = require('pg');

const [url, screenshot] = process.argv.slice(2);
const print = (...columns) => console.log(['page', ...columns].join(' | '));
const markup = '<img src=x onerror="document.title = \'owned\'">';

(async () => {
	const db = new Client({ user: 'postgres' });
	await db.connect();
	const { rows: [{ begun }] } = await db.query('SELECT now() AS begun');
	const one = async (sql, values) => Object.values((await db.query(sql, values)).rows[0]).join(' | ');
	await db.query(`SELECT optout.sign_in(u, 'acme', n) FROM (VALUES ('carla', 'Carla Cole'), ('dora', 'Dora Diaz'), ('emil', 'Emil Ek')) AS t (u, n)`);
	await db.query(`SELECT optout.enroll('ann', 'acme', 'Ann Archer'), optout.opt_out('carla', 'acme', 'asked for it by mail')`);

	const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: [
		'--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'] });
	const page = await browser.newPage({ viewport: { width: 860, height: 545 }, locale: 'en-US', colorScheme: 'light' });
	page.setDefaultTimeout(20000);
	const user = page.getByRole('combobox', { name: 'User' });
	const reason = page.getByRole('textbox', { name: 'Reason' });
	const out = page.getByRole('button', { name: 'Opt out' });
	const back = page.getByRole('button', { name: 'Opt in' });
	const box = (name) => page.getByRole('checkbox', { name });
	const said = async (role, text) => (await page.getByRole(role).filter({ hasText: text }).textContent()).replaceAll('\n', ' ');
	const list = async () => (await page.getByRole('row').filter({ has: page.getByRole('checkbox') }).all())
		.reduce(async (rows, row) => [...await rows, (await row.getByRole('cell').allTextContents()).map((c) => c.trim()).filter((c, i) => c && i !== 1).join(', ')], []);

	await page.goto(url);
	await box('Bob Brown').waitFor();
	print('drop-down', (await user.getByRole('option').allTextContents()).join(', '));
	print('list', ...await list());

	await user.selectOption({ label: 'Dora Diaz (dora)' });
	await reason.fill('works council');
	await out.click();
	print('opt out', await said('status', 'Opted out'));
	await box('Dora Diaz').waitFor();
	print('list after it', ...await list());
	print('database', await one(`SELECT user_id, opted_out_by, opted_out_actor, reason FROM optout.opt_out_history
		WHERE organization = 'acme' AND opted_in_at IS NULL ORDER BY opted_out_at DESC LIMIT 1`));
	print('her event', `accepted ${await one(`SELECT optout.accepts('dora', 'acme')`)}`);
	if (screenshot) {
		await user.selectOption({ label: 'Emil Ek (emil)' });
		await box('Carla Cole').check();
		await page.screenshot({ path: screenshot });
		await box('Carla Cole').uncheck();
	}

	print('Opt in, nothing ticked', await back.isDisabled() ? 'disabled' : 'enabled');
	await box('Bob Brown').focus();
	await page.keyboard.press('Space');
	await box('Dora Diaz').focus();
	await page.keyboard.press('Space');
	await page.keyboard.press('Tab');
	await page.keyboard.press('Enter');
	print('tick two, Opt in', await said('status', 'Opted in'));
	await box('Dora Diaz').waitFor({ state: 'detached' });
	print('list after it', ...await list());
	print('database', await one(`SELECT string_agg(user_id, ' ' ORDER BY user_id), min(opted_in_by) AS by, min(opted_in_actor) AS actor FROM optout.opt_out_history
		WHERE organization = 'acme' AND opted_in_at > $1`, [begun]));

	// somebody else has taken him out of the directory meanwhile
	await db.query(`DELETE FROM optout.product_user WHERE organization = 'acme' AND user_id = 'emil'`);
	await user.selectOption({ label: 'Emil Ek (emil)' });
	await out.click();
	print('an error', await said('alert', 'emil'));

	await db.query(`SELECT optout.enroll('mallory', 'acme', $1), optout.opt_out('mallory', 'acme', $1)`, [markup]);
	await page.reload();
	await box('mallory').waitFor();
	const shown = (await list()).find((row) => row.includes('mallory'));
	print('a name that is markup', shown === `${markup} (mallory), ${markup}` ? 'shown as text' : shown,
		`${await page.locator('img').count()} images`, `title ${await page.title()}`);
	await browser.close();
	await db.end();
})().catch((error) => { console.error(error); process.exit(1); });
