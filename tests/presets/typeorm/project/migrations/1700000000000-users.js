module.exports = class Users1700000000000 {
  async up(runner) {
    await runner.query('CREATE TABLE users (id int PRIMARY KEY)');
  }
  async down() {}
};
