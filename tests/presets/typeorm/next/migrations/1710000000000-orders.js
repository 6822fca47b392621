module.exports = class Orders1710000000000 {
  async up(runner) {
    await runner.query('CREATE TABLE orders (id int PRIMARY KEY)');
  }
  async down() {}
};
